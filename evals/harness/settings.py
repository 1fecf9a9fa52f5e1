"""What every run has, whatever its suite: the harness's own flags, each with the stage that it decides."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import re
from pathlib import Path
from typing import Any

from evals.core import options as flags
from evals.core.options import GENERATE, OBSERVE, RUN, STAGES, names, option
from evals.core.records import UserError
from evals.core.run_directory import PARTS
from evals.detectors import registry as detectors
from evals.embedders.registry import EMBEDDERS
from evals.generators import registry as generators
from got.util.cli import DEVICES, DTYPES, number, whole
from got.util.workers.options import FLAGS

DRAWS, GUIDES, LOOKS, RUNS = "what draws", "GoT's three guidances", "what looks at the images", "the run"
MANY = "many processes and machines"
"""Headings of groups in the help."""
_draws = functools.partial(option, stage=GENERATE, group=DRAWS)
_guides = functools.partial(option, stage=GENERATE, group=GUIDES, heeded_by="model")
_run = functools.partial(option, stage=RUN, group=RUNS)


def _ray(field: str) -> Any:
    told = FLAGS[field]
    kept = {key: told[key] for key in ("metavar",) if key in told}
    return option(told["default"], told["help"], stage=RUN, group=MANY, parse=told.get("type"), **kept)


_CHAINS = "own, none, oracle, jitter:X, drop:X or swap:X"


def _chain(text: str) -> str:
    how, colon, amount = text.partition(":")
    if how in ("own", "none", "oracle") and not colon:
        return text
    if how in ("jitter", "drop", "swap") and re.fullmatch(r"0?\.\d+|[01](\.0*)?", amount):
        return text
    raise argparse.ArgumentTypeError(f"expected {_CHAINS}, X in [0, 1], but got {text}")


def _shard(text: str) -> tuple[int, int]:
    which, _, count = text.partition("/")
    if not (which.isdecimal() and count.isdecimal() and 1 <= int(which) <= int(count)):
        raise argparse.ArgumentTypeError(f"expected I/N, a share from 1 to N as in 3/8, but got {text}")
    return int(which), int(count)


_on_off = functools.partial(_guides, "on", choices=("on", "off"))
_strength = functools.partial(_guides, None, "its strength (default: the checkpoint's)", metavar="X", parse=number(0))


def _detectors() -> str:
    return (
        f"{detectors.choices()}; hf takes object detectors, instance segmenters and open-vocabulary detectors of "
        "transformers (Grounding DINO, OWL-ViT, OWLv2); the last are prompted with the 80 class names, and their "
        "scores are lower, which asks for thresholds of their own (default: icon, of GenEval 2 icon-fine; GenEval has "
        "none for a folder, a diffusers pipeline and a GoT checkpoint larger than mini)"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The harness's flags."""

    model: str = _draws(
        "got",
        lambda: f"one of {generators.GENERATORS.written()} (default: %(default)s)",
        metavar="NAME",
        names="generator",
    )
    checkpoint: str = _draws(
        "mini",
        "GoT's weights (default: %(default)s, embedded)",
        metavar="mini|PATH|HUB_ID",
        heeded_by="model",
        names="generator",
    )
    tasks: tuple[str, ...] = _draws(
        (),
        "only prompts of these tasks (of edits: categories), which keep their ids; a JSON list where a name has a"
        """ comma: '["left, right", "counting"]' (default: all)""",
        metavar="A,B|LIST",
        parse=names,
        silent=True,
    )
    limit: int | None = _draws(
        None, "only N prompts, spread evenly over the tasks (default: all)", metavar="N", parse=whole()
    )
    images_per_prompt: int = _draws(4, "(default: %(default)s)", metavar="N", parse=whole())
    seed: int = _draws(42, "base of every sample's own seed (default: %(default)s)", metavar="N")
    steps: int | None = _draws(
        None, "denoising steps (default: the checkpoint's)", metavar="N", parse=whole(), heeded_by="model"
    )
    scheduler: str | None = _draws(
        None, "GoT's sampler (default: the checkpoint's)", choices=generators.known_schedulers(), heeded_by="model"
    )
    own_size: bool = _draws(
        False,
        "edits keep the model's own size, in the source's aspect (default: they get the source's size)",
        silent=True,
        heeded_by="model",
    )
    semantic: str = _on_off("follow the chain's meaning (default: on)")
    semantic_scale: float | None = _strength()
    spatial: str = _on_off("follow the chain's boxes (default: on)")
    spatial_scale: float | None = _strength()
    reference: str = _on_off("follow the source image; black for text-to-image (default: on)")
    reference_scale: float | None = _strength()
    guidance_interval: tuple[float, ...] | None = _guides(
        None,
        "guide in this part of the steps alone, e.g. 0 0.7; the rest is drawn with all conditions, faster (default: the"
        " checkpoint's)",
        metavar=("FROM", "TO"),
        parse=number(0, 1),
        nargs=2,
        silent=True,
    )
    chain: str = _guides(
        "own",
        f"whose plan is drawn: {_CHAINS}; the last three are the oracle's with moved boxes, a share X of boxes missing,"
        " or a share X of names exchanged (default: %(default)s)",
        metavar="WHOSE",
        parse=_chain,
    )
    reference_compat: bool = _guides(
        False,
        "do as GoT's released code does where this one differs on purpose (got/released/reference.py lists where)",
        silent=True,
    )
    detector: str = option("icon", _detectors, stage=OBSERVE, group=LOOKS, metavar="NAME|PATH", names="detector")
    allow_missing_classes: bool = option(
        False,
        "go on where the detector has no label for a class that a case needs; such cases are missing, not wrong",
        stage=RUN,
        group=LOOKS,
    )
    embedder: str = option(
        "auto",
        lambda: f"names colours: {EMBEDDERS.written()} (default: the detector's companion)",
        stage=OBSERVE,
        group=LOOKS,
        metavar="NAME|PATH",
        names="embedder",
    )
    output: Path | None = _run(  # noqa: RUF009  # a field
        None, "run directory (default: under runs/, named by model and arguments)", metavar="DIR", parse=Path
    )
    start: str | None = _run(None, "redo a finished stage and those after it", name="--from", choices=STAGES)
    batch_size: int | None = _run(
        None,
        "images drawn and observed together; moves results by rounding errors at most (default: by model)",
        metavar="N",
        parse=whole(),
    )
    engine: str = _run(
        "local",
        "where samples are computed: here, or by workers of Ray (default: %(default)s)",
        choices=("local", "ray"),
    )
    workers: int | None = _ray("workers")
    cpus_per_worker: int = _ray("cpus_per_worker")
    gpus_per_worker: float | None = _ray("gpus_per_worker")
    ray_address: str | None = _ray("ray_address")
    worker_wait: float = _ray("worker_wait")
    shard: tuple[int, int] | None = option(
        None,
        "compute the I-th of N shares of the batches alone, as an array job does; python -m evals.merge joins them",
        stage=RUN,
        group=MANY,
        metavar="I/N",
        parse=_shard,
    )
    device: str = _run("auto", DEVICES, metavar="NAME")
    dtype: str = option(
        "float32",
        "of the model; bfloat16 is faster on GPUs and with AMX, and many times slower on processors that only emulate "
        "it (default: %(default)s)",
        stage=GENERATE,
        group=RUNS,
        choices=DTYPES,
    )
    offload: str | None = _run(
        None,
        "for a GPU smaller than the model: weights wait in main memory, network by network or layer by layer",
        choices=("model", "sequential"),
        heeded_by="model",
    )
    compile: bool = _run(
        False,
        "torch compiles the model's UNet (minutes), which then runs faster; wants a compiler and Python's headers",
        heeded_by="model",
    )
    export_prompts: Path | None = _run(  # noqa: RUF009  # a field
        None, "write the prompts as GenEval's folders for another tool to fill, and stop", metavar="DIR", parse=Path
    )
    dry_run: bool = _run(False, "print what would be done, and stop")
    doctor: bool = _run(
        False, "check the installation, and the model, detector and embedder that are given; draw nothing"
    )

    def place_in(self, run: Path) -> Path:
        """Where this process writes: the run directory, or the part of it that ``--shard`` names."""
        return run if self.shard is None else run / PARTS / "{}-of-{}".format(*self.shard)

    def check(self, given: frozenset[str]) -> None:
        """Refuses a flag that would change nothing: better now than a puzzling table.

        Args:
            given: Fields that were given.

        Raises:
            UserError: There is such a flag, or two that cannot go together.
        """
        model, _ = generators.parse_model(self.model)
        heeds = generators.GENERATORS[model].heeds
        some = [field for field, flag in flags.flags_of(self) if flag.heeded_by == "model"]
        idle = [flags.flag_name(field) for field in some if field.name in given - set(heeds)]
        if idle:
            raise UserError(f"{', '.join(idle)} has no effect with --model {model}")
        if self.engine != "ray" and (idle := sorted(given & FLAGS.keys())):
            raise UserError(f"--{idle[0].replace('_', '-')} belongs to --engine ray")
        if self.guidance_interval is not None and self.guidance_interval[0] > self.guidance_interval[1]:
            start, end = self.guidance_interval
            raise UserError(f"--guidance-interval {start:g} {end:g}: expected the lesser number first")
        if self.reference_compat and self.scheduler not in (None, "ddpm"):
            raise UserError(
                "--scheduler cannot be used with --reference-compat: the released code samples by DDPM only"
            )
