"""Weights that fit their network exactly, or one sentence that says what does not."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any

from evals.core.records import UserError
from got.util import weight_files
from got.util.errors import one_line

if TYPE_CHECKING:
    import torch

_SHOWN = 5
"""So many keys of a kind are named in an error."""
_WRAPPINGS = (
    *("state_dict_ema", "state_dict", "model_ema", "ema", "ema_state_dict"),
    *("model_state_dict", "model", "network", "module"),
)
"""Under which trainers keep the weights beside their own records, averages first: they are the weights of inference.

Where MMDetection keeps two, `state_dict` holds the average already, and `ema_state_dict` what was averaged.
"""
_PREFIXES = ("module.", "_orig_mod.", "model.", "network.")
"""Put before every key by wrappers: data parallel, torch.compile, a Lightning module."""
_RECORDS = frozenset({"steps", "n_averaged"})
"""Entries of averaged weights that count updates."""


def refuse_file(path: Path) -> None:
    """Refuses a file that holds no weights, in clearer words than the library that would read it has.

    Raises:
        UserError: It does not exist, or is a pointer, a web page, empty, cut short, ...
    """
    fault = weight_files.fault(path)
    if fault is not None:
        raise UserError(f"{path} {fault}")


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        UserError: there is no such file, or it is not one.
    """
    import safetensors
    import safetensors.torch

    refuse_file(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
        return safetensors.torch.load_file(path), metadata
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file ({error})") from error


def fit(network: torch.nn.Module, state: dict[str, torch.Tensor], source: str) -> None:
    """Load weights into a network of exactly these keys and shapes; floating point is cast to the network's type.

    Raises:
        UserError: keys are missing, unexpected or of another shape; all kinds are listed, nothing is loaded.
    """
    wanted = network.state_dict()
    shapes = {
        key: f"{key} {tuple(state[key].shape)} for {tuple(wanted[key].shape)}"
        for key in wanted.keys() & state.keys()
        if state[key].shape != wanted[key].shape
    }
    wrong = {
        "missing": sorted(wanted.keys() - state.keys()),
        "unexpected": sorted(state.keys() - wanted.keys()),
        "mis-shaped": [shapes[key] for key in sorted(shapes)],
    }
    if any(wrong.values()):
        parts = [f"{len(keys)} {kind} ({_listed(keys)})" for kind, keys in wrong.items() if keys]
        raise UserError(f"{source} does not fit its config: {'; '.join(parts)}")
    network.load_state_dict(state, strict=True)


def _listed(keys: list[Any]) -> str:
    return ", ".join(map(str, keys[:_SHOWN])) + (", ..." if len(keys) > _SHOWN else "")


# -------------------------------------------------------------------------------------------------------- checkpoints
class _Inert:
    """Stands for every object of a pickle that is no weight: accepts what unpickling does to it, and does nothing."""

    def __new__(cls, *_arguments: object, **_named: object) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *_arguments: object, **_named: object) -> None: ...

    def __call__(self, *_arguments: object, **_named: object) -> _Inert:
        return self

    def __setstate__(self, _state: object) -> None: ...

    def __setitem__(self, _key: object, _value: object) -> None: ...

    def append(self, _value: object) -> None:
        """As a list's."""

    def extend(self, _values: object) -> None:
        """As a list's."""


class _TensorsOnly(pickle.Unpickler):
    """Builds tensors and plain containers, and nothing else: unpickling whatever is named would run its code."""

    _KNOWN = frozenset(
        {
            ("collections", "OrderedDict"),
            ("torch._utils", "_rebuild_tensor_v2"),
            ("torch._utils", "_rebuild_parameter"),
            ("torch.serialization", "_get_layout"),
            ("torch", "Size"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._KNOWN or (module in ("torch", "torch.storage") and name.endswith("Storage")):
            return super().find_class(module, name)
        return _Inert


def _load_tensors(file: IO[bytes], **options: Any) -> Any:
    return _TensorsOnly(file, **options).load()


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """The weights of a file as safetensors, torch or a trainer writes it, out of the usual wrappings.

    Raises:
        UserError: There is no such file, it is none of these, or it holds no weights.
    """
    import torch

    refuse_file(path)
    if weight_files.is_safetensors(path):
        return _bare(read(path)[0])
    # Trainers pickle their records beside the weights, which torch's own safe reading refuses.
    readers = SimpleNamespace(__name__="pickle", Unpickler=_TensorsOnly, load=_load_tensors)
    try:
        found = torch.load(path, map_location="cpu", weights_only=False, pickle_module=readers)
    except Exception as error:  # what is damaged may ask torch and pickle for anything
        words = one_line(error, 80)
        raise UserError(
            f"{path} is no checkpoint of plain tensors ({words}); if it is one, save it as safetensors"
        ) from error
    state = _unwrapped(found)
    if not state:
        held = (
            ", ".join(map(str, list(found)[:_SHOWN])) or "an empty one"
            if isinstance(found, Mapping)
            else type(found).__name__
        )
        held = " ".join(held.split())  # names of a foreign file may have line ends
        raise UserError(f"{path} holds no weights; a state dict was expected, plain or as state_dict, not {held}")
    return _bare(state)


def _unwrapped(found: Any, depth: int = 3) -> dict[str, torch.Tensor]:
    """The named tensors in what a trainer saved; empty if there are none where they usually are."""
    import torch

    if not isinstance(found, Mapping) or depth == 0:
        return {}
    for name in _WRAPPINGS:
        if isinstance(found.get(name), Mapping) and (state := _unwrapped(found[name], depth - 1)):
            return state
    return {key: value for key, value in found.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}


def _bare(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors, their keys without the prefixes that wrappers put before them.

    >>> list(_bare({"module.model.a": 1, "module.model.b": 2, "steps": 3})), list(_bare({"model.a": 1, "b": 2}))
    (['a', 'b'], ['model.a', 'b'])
    """
    kept = {key: value for key, value in state.items() if key not in _RECORDS}
    while kept and (prefix := next((p for p in _PREFIXES if all(key.startswith(p) for key in kept)), None)):
        kept = {key.removeprefix(prefix): value for key, value in kept.items()}
    return kept
