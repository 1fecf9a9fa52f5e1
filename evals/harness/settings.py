"""What every run has, whatever its suite: the harness's own flags, each with the stage that it decides."""

from __future__ import annotations

import argparse
import dataclasses
import re
from pathlib import Path

from evals.core.options import GENERATE, OBSERVE, RUN, STAGES, count, names, option, scale
from evals.core.records import UserError
from evals.detectors import registry as detectors
from evals.embedders.registry import EMBEDDERS
from evals.generators import registry as generators
from evals.harness.engines import ENGINES

DRAWS, GUIDES, LOOKS, RUNS = "what draws", "GoT's three guidances", "what looks at the images", "the run"
"""Headings of the help."""

_CHAINS = "own, none, oracle, jitter:X, drop:X or swap:X"
_MODEL = "model"


def _chain(text: str) -> str:
    how, colon, amount = text.partition(":")
    if how in ("own", "none", "oracle") and not colon:
        return text
    if how in ("jitter", "drop", "swap") and re.fullmatch(r"0?\.\d+|[01](\.0*)?", amount):
        return text
    raise argparse.ArgumentTypeError(f"expected {_CHAINS}, X in [0, 1], but got {text}")


def _on_off(purpose: str) -> str:
    switch: str = option(
        "on", f"{purpose} (default: on)", stage=GENERATE, group=GUIDES, choices=("on", "off"), heeded_by=_MODEL
    )
    return switch


def _strength() -> float | None:
    words = "its strength (default: the checkpoint's)"
    found: float | None = option(None, words, stage=GENERATE, group=GUIDES, metavar="X", parse=scale, heeded_by=_MODEL)
    return found


def _detector_help() -> str:
    known = [name for name in detectors.DETECTORS.names() if name not in ("icon", "mask2former", "hf")]
    return (
        f"{', '.join([detectors.CHOICES, *known])}; hf takes object detectors, instance segmenters and open-vocabulary "
        "detectors (Grounding DINO, OWL-ViT, OWLv2) of transformers; the last are prompted with the 80 class names, "
        "and their scores are lower, which asks for thresholds of their own (default: icon; GenEval has none for a "
        "folder, a diffusers pipeline and a GoT checkpoint larger than mini)"
    )


def _embedder_help() -> str:
    known = [name for name in EMBEDDERS.names() if name not in ("icon", "openclip")]
    choices = ", ".join(["icon", "openclip:MODEL/PRETRAINED|PATH", *known])
    return f"names colours: {choices} (default: the detector's companion)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The harness's flags."""

    model: str = option(
        "got",
        lambda: f"one of {generators.GENERATORS.written()} (default: %(default)s)",
        stage=GENERATE,
        group=DRAWS,
        metavar="NAME",
    )
    checkpoint: str = option(
        "mini",
        "GoT's weights (default: %(default)s, embedded)",
        stage=GENERATE,
        group=DRAWS,
        metavar="mini|PATH|HUB_ID",
        heeded_by=_MODEL,
    )
    tasks: tuple[str, ...] = option(
        (),
        "only prompts of these tasks (of edits: categories), which keep their ids (default: all)",
        stage=GENERATE,
        group=DRAWS,
        metavar="A,B",
        parse=names,
        silent=True,
    )
    limit: int | None = option(
        None,
        "only N prompts, spread evenly over the tasks (default: all)",
        stage=GENERATE,
        group=DRAWS,
        metavar="N",
        parse=count,
    )
    images_per_prompt: int = option(4, "(default: %(default)s)", stage=GENERATE, group=DRAWS, metavar="N", parse=count)
    seed: int = option(
        42, "base of every sample's own seed (default: %(default)s)", stage=GENERATE, group=DRAWS, metavar="N"
    )
    steps: int | None = option(
        None,
        "denoising steps (default: the checkpoint's)",
        stage=GENERATE,
        group=DRAWS,
        metavar="N",
        parse=count,
        heeded_by=_MODEL,
    )
    scheduler: str | None = option(
        None,
        "GoT's sampler (default: the checkpoint's)",
        stage=GENERATE,
        group=DRAWS,
        choices=generators.known_schedulers(),
        heeded_by=_MODEL,
    )
    semantic: str = _on_off("follow the chain's meaning")
    semantic_scale: float | None = _strength()
    spatial: str = _on_off("follow the chain's boxes")
    spatial_scale: float | None = _strength()
    reference: str = _on_off("follow the source image; black for text-to-image")
    reference_scale: float | None = _strength()
    chain: str = option(
        "own",
        f"whose plan is drawn: {_CHAINS}; the last three are the oracle's with moved boxes, a share X of boxes missing,"
        " or a share X of names exchanged (default: %(default)s)",
        stage=GENERATE,
        group=GUIDES,
        metavar="WHOSE",
        parse=_chain,
        heeded_by=_MODEL,
    )
    reference_compat: bool = option(
        False,
        "do as GoT's released code does where this one differs on purpose (got/released/reference.py lists where)",
        stage=GENERATE,
        group=GUIDES,
        silent=True,
        heeded_by=_MODEL,
    )
    detector: str = option("icon", _detector_help, stage=OBSERVE, group=LOOKS, metavar="NAME|PATH")
    allow_missing_classes: bool = option(
        False,
        "go on where the detector has no label for a class that a case needs; such cases are missing, not wrong",
        stage=RUN,
        group=LOOKS,
    )
    embedder: str = option("auto", _embedder_help, stage=OBSERVE, group=LOOKS, metavar="NAME|PATH")
    output: Path | None = option(
        None,
        "run directory (default: under runs/, named by model and arguments)",
        stage=RUN,
        group=RUNS,
        metavar="DIR",
        parse=Path,
    )
    start: str | None = option(
        None, "redo a finished stage and those after it", stage=RUN, group=RUNS, name="--from", choices=STAGES
    )
    batch_size: int | None = option(
        None,
        "images drawn and observed together; moves results by rounding errors at most (default: by model)",
        stage=RUN,
        group=RUNS,
        metavar="N",
        parse=count,
    )
    engine: str = option(
        "local", "where samples are computed (default: %(default)s)", stage=RUN, group=RUNS, choices=tuple(ENGINES)
    )
    device: str = option(
        "auto", "cpu, cuda, cuda:1, mps (default: a GPU if there is one)", stage=RUN, group=RUNS, metavar="NAME"
    )
    dtype: str = option(
        "float32",
        "of the model; bfloat16 is faster on GPUs and on processors that multiply it (AMX, AVX512-BF16), and many "
        "times slower on others (default: %(default)s)",
        stage=GENERATE,
        group=RUNS,
        choices=("float32", "bfloat16", "float16"),
    )
    offload: str | None = option(
        None,
        "for a GPU smaller than the model: weights wait in main memory, network by network or layer by layer",
        stage=RUN,
        group=RUNS,
        choices=("model", "sequential"),
        heeded_by=_MODEL,
    )
    compile: bool = option(
        False,
        "torch compiles the model's UNet (minutes), which then runs faster; wants a compiler and Python's headers",
        stage=RUN,
        group=RUNS,
        heeded_by=_MODEL,
    )
    dry_run: bool = option(False, "print what would be done, and stop", stage=RUN, group=RUNS)
    doctor: bool = option(
        False,
        "check the installation, and the model, detector and embedder that are given; draw nothing",
        stage=RUN,
        group=RUNS,
    )

    def check(self, given: frozenset[str]) -> None:
        """Refuses a flag that would change nothing: better now than a puzzling table.

        Args:
            given: Fields that were given.

        Raises:
            UserError: There is such a flag, or two that cannot go together.
        """
        model, _ = generators.parse_model(self.model)
        heeds = generators.GENERATORS[model].heeds
        fields = [field for field in dataclasses.fields(self) if field.metadata["flag"].heeded_by == _MODEL]
        idle = [f"--{field.name.replace('_', '-')}" for field in fields if field.name in given - set(heeds)]
        if idle:
            raise UserError(f"{', '.join(idle)} has no effect with --model {model}")
        if self.reference_compat and self.scheduler not in (None, "ddpm"):
            raise UserError(
                "--scheduler cannot be used with --reference-compat: the released code samples by DDPM only"
            )
