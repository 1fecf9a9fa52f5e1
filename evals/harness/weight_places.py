"""Where weights and prompts lie that flags name by their paths: what a worker's machine must have, or is sent."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from evals.core.options import flag_name, flags_of
from evals.detectors.registry import DETECTORS
from evals.embedders.registry import EMBEDDERS, IMAGE_EMBEDDERS, SQUASH
from evals.judges.registry import JUDGES
from got.util import provenance
from got.util.tables import counted
from got.util.weight_files import below

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from evals.core.backends import Registry

Options = TypeVar("Options")

_REGISTRIES: dict[str, tuple[Registry[Any], ...]] = {
    "detector": (DETECTORS,),
    "embedder": (EMBEDDERS,),
    "image embedder": (IMAGE_EMBEDDERS, EMBEDDERS),
    "judge": (JUDGES,),
}


def place_of(role: str, value: str) -> Path | None:
    """Where the files lie that a flag's value names; None if it names none.

    Args:
        role: `Flag.names`.
        value: One word of the command line.

    >>> place_of("judge", "hf:vl"), place_of("judge", "none"), place_of("backbone", "squeeze:net.pth")
    (PosixPath('vl'), None, PosixPath('net.pth'))
    >>> place_of("image embedder", "openclip:folder+squash"), place_of("detector", "net.safetensors")
    (PosixPath('folder'), PosixPath('net.safetensors'))
    """
    plain = value.removesuffix(SQUASH)
    name, _, argument = plain.partition(":")
    for registry in _REGISTRIES.get(role, ()):
        if name in registry:
            return registry[name].weights(argument)
    if role in ("backbone", "judge"):
        return Path(argument) if argument else None
    return Path(plain) if plain not in ("", "none") else None


def named(options: object) -> dict[str, Path | None]:
    """The places that options name, by who uses them."""
    found: dict[str, Path | None] = {}
    for field, role in _naming(options):
        if role == "generator":  # two flags say together what draws
            continue
        values = getattr(options, field.name)
        who = field.name if role == field.name else flag_name(field)
        for number, value in enumerate(values if isinstance(values, tuple) else (values,)):
            found[f"{who} {number + 1}" if number else who] = None if value is None else place_of(role, str(value))
    return found


def moved(options: Options, places: Mapping[str, Path]) -> Options:
    """The same options, with some of the places elsewhere, by their path."""
    told: dict[str, Any] = {}
    for field, _ in _naming(options):
        value = getattr(options, field.name)
        if isinstance(value, tuple):
            told[field.name] = tuple(_moved(one, places) for one in value)
        elif value is not None:
            told[field.name] = type(value)(_moved(str(value), places))
    return dataclasses.replace(options, **told)  # type: ignore[type-var]


def _naming(options: object) -> Iterator[tuple[dataclasses.Field[Any], str]]:
    return ((field, flag.names) for field, flag in flags_of(options) if flag.names is not None)


def _moved(value: str, places: Mapping[str, Path]) -> str:
    """A value, with the path in it replaced if what lies there has been moved.

    >>> places = {"got-6b": Path("/new/a"), "i": Path("/new/i"), "w.bin": Path("/new/w.bin")}
    >>> [_moved(text, places) for text in ("./got-6b/", "hf:got-6b", "icon:i", "owner/got-6b")]
    ['/new/a', 'hf:/new/a', 'icon:/new/i', 'owner/got-6b']
    >>> _moved("openclip:ViT-B-32/w.bin+squash", places)
    'openclip:ViT-B-32//new/w.bin+squash'
    """
    plain = value.removesuffix(SQUASH)
    kind, colon, argument = plain.partition(":")
    heads = ["", kind + colon]
    if kind == "openclip":  # MODEL/FILE
        heads.append(f"{kind}:{argument.partition('/')[0]}/")
    for head in heads:
        place = plain[len(head) :]
        if place and str(Path(place)) in places:
            return f"{head}{places[str(Path(place))]}{value[len(plain) :]}"
    return value


def sizes(places: Mapping[str, Path]) -> dict[str, str]:
    """Number and bytes of files, by who uses them: enough to notice another checkpoint at the same place."""
    found = {
        who: [path.stat().st_size for path in ([place] if place.is_file() else below(place))]
        for who, place in places.items()
    }
    return {f"{who}'s weights": f"{counted(len(files), 'files')}, {sum(files)} bytes" for who, files in found.items()}


def hashes_of(looks: Mapping[str, Any]) -> dict[str, str]:
    """Hashes of the weights on this machine of whoever looks, named by role."""
    found = {role: place_of(role, str(looks.get(role, ""))) for role in ("detector", "embedder")}
    return {
        f"{role}/{key}": value
        for role, place in found.items()
        if place is not None and place.exists()
        for key, value in provenance.weights_sha256(place).items()
    }
