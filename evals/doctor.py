"""Is this installation sound? Versions, operators, weights, and a self-test of detector, CLIP and scorer.

A wrong pair of config and checkpoint, or libraries that do not fit each other, often show as nothing but zeros in a
score. Here they show as a sentence.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals import generators, provenance
from evals.protocols import Tools
from evals.records import Case, Sample, UserError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from rich.table import Table

    from evals.protocols import Suite

ASSETS = Path(__file__).parent / "assets"
LIBRARIES = ("torch", "torchvision", "transformers", "diffusers", "open_clip", "mmengine", "mmcv", "mmdet", "scipy")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    found: str
    """What is there."""
    problem: str | None = None
    """What is wrong and what to do, one sentence; None if all is well."""


def _case(number: int, tag: str, prompt: str, *include: dict[str, Any], **exclude: Any) -> Case:
    metadata = {"tag": tag, "include": list(include), **exclude, "prompt": prompt}
    return Case(id=f"{number:05d}", prompt=prompt, tag=tag, metadata=metadata)


_APPLES = ({"class": "apple", "count": 3},)
PICTURES = (
    _case(0, "single_object", "a photo of a clock", {"class": "clock", "count": 1}),
    _case(1, "two_object", "a photo of a bus and a cat", {"class": "bus", "count": 1}, {"class": "cat", "count": 1}),
    _case(2, "counting", "a photo of three apples", *_APPLES, exclude=[{"class": "apple", "count": 4}]),
    _case(3, "colors", "a photo of a blue chair", {"class": "chair", "count": 1, "color": "blue"}),
    _case(
        4,
        "position",
        "a photo of an umbrella left of an elephant",
        {"class": "elephant", "count": 1},
        {"class": "umbrella", "count": 1, "position": ["left of", 0]},
    ),
    _case(
        5,
        "color_attr",
        "a photo of a red vase and a green boat",
        {"class": "vase", "count": 1, "color": "red"},
        {"class": "boat", "count": 1, "color": "green"},
    ),
)
"""A prompt of each task. Its own flawless picture must pass, the next prompt's picture must not."""

_DOG, _CAT = ("dog", 0.95, (4.0, 20.0, 24.0, 40.0), "red"), ("cat", 0.95, (40.0, 20.0, 60.0, 40.0), "blue")
_FAINT = ("dog", 0.5, (4.0, 44.0, 24.0, 60.0), "red")
_PAIR = _case(
    0, "counting", "a photo of two dogs", {"class": "dog", "count": 2}, exclude=[{"class": "dog", "count": 3}]
)
_PLACED = _case(
    0,
    "position",
    "a photo of a dog left of a cat",
    {"class": "cat", "count": 1},
    {"class": "dog", "count": 1, "position": ["left of", 0]},
)
_COLORED = _case(0, "colors", "a photo of a red dog", {"class": "dog", "count": 1, "color": "red"})
VERDICTS: tuple[tuple[str, Case, tuple[Any, ...], bool], ...] = (
    ("two sure dogs are two", _PAIR, (_DOG, _DOG), True),
    ("a faint dog does not count", _PAIR, (_DOG, _FAINT), False),
    ("three dogs are too many", _PAIR, (_DOG, _DOG, _DOG), False),
    ("left is left", _PLACED, (_DOG, _CAT), True),
    ("right is not left", _PLACED, (_CAT, ("dog", 0.95, (62.0, 20.0, 64.0, 40.0), "red")), False),
    ("red is red", _COLORED, (_DOG,), True),
    ("blue is not red", _COLORED, (("dog", 0.95, (4.0, 20.0, 24.0, 40.0), "blue"),), False),
    ("nothing is not a dog", _COLORED, (), False),
)
"""Hand-made detections (class, score, box, colour) and whether they are right for a case."""


def main(suite: Suite, args: argparse.Namespace) -> int:
    """Look at everything, print a table, and end with one line of JSON.

    Args:
        suite: the benchmark whose scorer is tested.
        args: its arguments, for its thresholds and the device.

    Returns:
        0 if all is well, else 1.
    """
    from rich.console import Console

    checks = list(examine(suite, args))
    problems = [check.problem for check in checks if check.problem]
    console = Console(width=None if sys.stdout.isatty() else 120, markup=False)  # paths and errors are no markup
    console.print(_table(checks))
    for problem in problems:
        console.print(f"problem: {problem}", style="red", soft_wrap=True)
    if not problems:
        console.print("This installation is sound.")
    report = {"sound": not problems, "problems": problems, "found": {check.name: check.found for check in checks}}
    sys.stdout.write(json.dumps(report) + "\n")
    return 1 if problems else 0


def _table(checks: Sequence[Check]) -> Table:
    from rich.table import Table

    table = Table(title="Doctor", title_justify="left")
    table.add_column("")
    table.add_column("checked", no_wrap=True)
    table.add_column("found", overflow="fold")
    for check in checks:
        table.add_row("[red]✗[/]" if check.problem else "[green]✓[/]", check.name, check.found)
    return table


def examine(suite: Suite, args: argparse.Namespace) -> Iterator[Check]:
    """All checks, cheap ones first. One that fails does not stop the others."""
    yield from _libraries()
    yield _guarded("device", _device)
    yield _guarded("detector operators", _operators)
    for place in ("icon_detector.safetensors", "icon_clip.safetensors"):
        yield _weights(place, ASSETS / place)
    mini = generators.weights_place("got", "", "mini")
    yield _weights("got mini", mini) if mini else Check(name="got mini", found="none", problem="got is not installed")
    if suite.name == "geneval":
        yield _guarded("scorer self-test", lambda: _scorer(suite, args))
        yield _guarded("detector and CLIP self-test", lambda: _pictures(suite, args))


def _guarded(name: str, look: Callable[[], Check]) -> Check:
    """A check that breaks is a finding, whatever breaks: this is the tool for broken installations."""
    try:
        return look()
    except UserError as error:
        return Check(name=name, found="failed", problem=str(error))
    except Exception as error:
        return Check(
            name=name, found="failed", problem=f"{name}: {type(error).__name__}: {' '.join(str(error).split())}"
        )


def _libraries() -> Iterator[Check]:
    versions = provenance.package_versions()
    yield Check(name="packages", found=", ".join(f"{name} {version}" for name, version in versions.items()))
    broken = []
    for name in LIBRARIES:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(name)
        except Exception as error:  # a broken pair of torch and torchvision raises anything
            broken.append(f"{name} cannot be imported ({type(error).__name__}: {' '.join(str(error).split())[:150]})")
    problem = f"{'; '.join(broken)}: install the project again in a fresh environment" if broken else None
    yield Check(name="imports", found=f"{len(LIBRARIES) - len(broken)} of {len(LIBRARIES)} libraries", problem=problem)


def _device() -> Check:
    import torch

    if torch.cuda.is_available():
        return Check(name="device", found=f"cuda: {torch.cuda.get_device_name()}")
    return Check(name="device", found=f"cpu, {torch.get_num_threads()} threads")


def _operators() -> Check:
    from evals.mmcv_ops import ensure_mmcv_ops

    source = ensure_mmcv_ops()
    import torch
    from mmcv.ops import nms

    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30]])
    _, kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)
    found = "mmcv's own (compiled mmcv._ext)" if source == "mmcv" else "torchvision's (mmcv has no compiled mmcv._ext)"
    problem = None if kept.tolist() == [0, 2] else f"mmcv.ops.nms kept boxes {kept.tolist()} instead of [0, 2]"
    return Check(name="detector operators", found=found, problem=problem)


def _weights(name: str, place: Path) -> Check:
    hashes = provenance.weights_sha256(place) if place.exists() else {}
    if not hashes:
        problem = f"{name}: no weights at {place}; fetch the repository's large files or install the package again"
        return Check(name=name, found="none", problem=problem)
    parts = [f"{key} {value[:16]}" if len(hashes) > 1 else value for key, value in hashes.items()]
    return Check(name=name, found="\n".join(parts))


def _scorer(suite: Suite, args: argparse.Namespace) -> Check:
    wrong = []
    for name, case, detections, right in VERDICTS:
        keys = ("name", "score", "box_xyxy_px", "color")
        found = [dict(zip(keys, detection, strict=True)) for detection in detections]
        observation = {"width": 64, "height": 64, "detections": found, "plan": None}
        if suite.verdict(case, observation, args).correct != right:
            wrong.append(name)
    problem = f"the scorer says otherwise: {'; '.join(wrong)}" if wrong else None
    return Check(
        name="scorer self-test", found=f"{len(VERDICTS) - len(wrong)} of {len(VERDICTS)} verdicts", problem=problem
    )


def _pictures(suite: Suite, args: argparse.Namespace) -> Check:
    """The embedded detector and CLIP on flawless pictures: each passes its own prompt and fails the next one's."""
    from evals.detectors import make_detector
    from evals.embedders import make_embedder

    tools = Tools(detector=make_detector("icon"), embedder=make_embedder("icon"), oracle_render=None)
    samples = [Sample(case=case, index=0, seed=number) for number, case in enumerate(PICTURES)]
    images = [made.image for made in generators.OracleGenerator().generate(samples) if made.image is not None]
    wrong = []
    for shift, right in ((0, True), (1, False)):
        shown = [*images[shift:], *images[:shift]]
        observations = suite.observe(samples, shown, [None] * len(samples), tools, args)
        for sample, observation in zip(samples, observations, strict=True):
            judged = suite.verdict(sample.case, observation, args)
            if judged.correct != right:
                picture = "its own picture" if right else "another picture"
                wrong.append(f"{sample.case.prompt!r} on {picture}: {judged.reason or 'passes'}")
    total = 2 * len(samples)
    problem = (
        f"the embedded detector or CLIP misreads flawless pictures ({'; '.join(wrong)}): its weights do not fit its "
        "config or the libraries are broken"
    )
    name = "detector and CLIP self-test"
    return Check(name=name, found=f"{total - len(wrong)} of {total} pictures", problem=problem if wrong else None)
