"""Is this installation sound? Versions, weights, a self-test of detector, CLIP and scorer, and what a command names.

A wrong pair of config and checkpoint, or libraries that do not fit each other, often show as nothing but zeros in a
score. Here they show as a sentence. Model, detector, embedder and device of the command are loaded as a run loads them.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
import warnings
from typing import TYPE_CHECKING, Any

from evals.core.backends import ICON_WORLD, Tools
from evals.core.records import Case, Drawn, Sample, UserError
from evals.detectors import registry as detectors
from evals.embedders import registry as embedders
from evals.generators import registry as generators
from evals.generators.oracle import OracleGenerator
from evals.harness.run_spec import suite_names
from evals.judges.registry import JUDGES
from got.util import provenance
from got.util.cli import console
from got.util.errors import described, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from PIL import Image
    from rich.table import Table

    from evals.harness.plan import Plan

LIBRARIES = ("torch", "torchvision", "transformers", "diffusers", "open_clip", "scipy")
"""What every run may import. MMDetection is left out: one detector of photographs alone needs it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    found: str
    """What is there."""
    problem: str | None = None
    """What is wrong and what to do, one sentence; None if all is well."""
    note: str | None = None
    """What is missing for some other use, one sentence."""


def _case(number: int, tag: str, prompt: str, *include: dict[str, Any], **exclude: Any) -> Case:
    metadata = {"tag": tag, "include": list(include), **exclude, "prompt": prompt}
    return Case(id=f"{number:05d}", prompt=prompt, tag=tag, metadata=metadata)


_APPLES = ({"class": "apple", "count": 3},)
SELF_TEST_PROMPTS = (
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
"""A prompt of each task. Its own flawless image must pass, the next prompt's image must not."""

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


def main(plan: Plan) -> int:
    """Look at everything, print a table, and end with one line of JSON.

    Args:
        plan: What the command would do.

    Returns:
        0 if all is well, else 1.
    """
    checks = list(examine(plan))
    problems = list(dict.fromkeys(check.problem for check in checks if check.problem))
    notes = [check.note for check in checks if check.note]
    out = console()
    out.print(_table(checks))
    for kind, style, lines in (("note", "yellow", notes), ("problem", "red", problems)):
        for line in lines:
            out.print(f"{kind}: {line}", style=style, soft_wrap=True, highlight=False)
    if not problems:
        out.print("This installation is sound.")
    found = {check.name: check.found for check in checks}
    sys.stdout.write(json.dumps({"sound": not problems, "problems": problems, "notes": notes, "found": found}) + "\n")
    if problems:
        more = f" (and {len(problems) - 1} more)" if problems[1:] else ""
        sys.stderr.write(f"doctor: {visible(problems[0])}{more}\n")
    return 1 if problems else 0


def _table(checks: Sequence[Check]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Doctor", title_justify="left")
    table.add_column("")
    table.add_column("checked", overflow="fold")
    table.add_column("found", overflow="fold")
    for check in checks:
        mark, color = ("✗", "red") if check.problem else ("!", "yellow") if check.note else ("✓", "green")
        table.add_row(Text(mark, style=color), check.name, check.found)
    return table


def examine(plan: Plan) -> Iterator[Check]:
    """All checks, cheap ones first. One that fails does not stop the others."""
    yield from _libraries()
    yield _guarded("MMDetection", _mmdetection)
    yield _guarded("device", lambda: _device(plan.device))
    for name, place in embedded():
        yield _weights(name, place)
    yield _guarded("installed", _installed)
    if plan.suite.name == "geneval":
        yield _guarded("scorer self-test", lambda: _scorer(plan))
        yield _guarded("detector and CLIP self-test", lambda: _reads_flawless_images(plan))
    yield from _given(plan)


def embedded() -> list[tuple[str, Path]]:
    """What this package brings, by name: the weights that need no download."""
    found = [
        detectors.DETECTORS["icon"].weights(""),
        embedders.EMBEDDERS["icon"].weights(""),
        generators.GENERATORS["got"].weights("mini"),
    ]
    return [(place.name, place) for place in found if place is not None]


def _installed() -> Check:
    """Suites and back-ends by name, those of other packages too: a record that cannot be imported shows here."""
    registries = (generators.GENERATORS, detectors.DETECTORS, embedders.EMBEDDERS, embedders.IMAGE_EMBEDDERS, JUDGES)
    found = [f"suites: {', '.join(suite_names())}"]
    found += [f"{registry.role.partition(' ')[2]}s: {registry.written()}" for registry in registries]
    broken = [fault for registry in registries for name in registry.names() if (fault := registry.broken(name))]
    return Check(name="installed", found="\n".join(found), problem="; ".join(broken) or None)


def _given(plan: Plan) -> Iterator[Check]:
    """What the command names, loaded and tried as a run would."""
    named = plan.settings
    images = _flawless()
    model, detector, embedder = (f"--{role} {getattr(named, role)}" for role in ("model", "detector", "embedder"))
    model += f" --checkpoint {named.checkpoint}" if named.model == "got" and named.checkpoint != "mini" else ""

    def draws() -> Check:
        return Check(name=model, found=f"{plan.check().generator.name} is ready")

    def finds() -> Check:
        found = detectors.make_detector(named.detector, plan.device).detect(images)
        return Check(name=detector, found=f"finds {sum(map(len, found))} objects in {len(images)} images of icons")

    def embeds() -> Check:
        encoder = embedders.make_embedder(named.embedder, plan.device)
        vectors = encoder.embed_images(images)
        fit = vectors.shape[1] == encoder.embed_texts([case.prompt for case in SELF_TEST_PROMPTS]).shape[1]
        problem = None if fit else f"{embedder}: its vectors of images and of texts differ in length"
        return Check(name=embedder, found=f"vectors of {vectors.shape[1]} numbers", problem=problem)

    def prepares() -> Check:
        _ = plan.instruments, plan.judge
        return Check(name=f"{plan.suite.name}'s measures", found="ready")

    checks = [_guarded(model, draws)]
    checks += [_guarded(detector, finds)] if plan.suite.detects(plan.options) else []
    # Without a detector nobody knows which embedder goes with it.
    if "embedder" in plan.spec.given or not any(check.problem for check in checks[1:]):
        checks += [_guarded(embedder, embeds)]
    yield from checks
    if not any(check.problem for check in checks):
        yield _guarded(f"{plan.suite.name}'s measures", prepares)


def _guarded(name: str, look: Callable[[], Check]) -> Check:
    """Runs a check; any exception becomes a finding, because this tool is for broken installations."""
    try:
        return look()
    except UserError as error:
        return Check(name=name, found="failed", problem=str(error))
    except Exception as error:
        return Check(name=name, found="failed", problem=f"{name}: {described(error)}")


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
            broken.append(f"{name} cannot be imported ({described(error, 150)})")
    problem = f"{'; '.join(broken)}: install the project again in a fresh environment" if broken else None
    yield Check(name="imports", found=f"{len(LIBRARIES) - len(broken)} of {len(LIBRARIES)} libraries", problem=problem)


def _device(name: str) -> Check:
    import torch

    if torch.device(name).type == "cuda":
        return Check(name="device", found=f"{name}: {torch.cuda.get_device_name(name)}")
    return Check(name="device", found=f"{name}, {torch.get_num_threads()} threads")


def _mmdetection() -> Check:
    from evals.detectors.mmcv_ops import MMDetectionError, import_mmdet

    try:
        operators = import_mmdet()
    except MMDetectionError as error:
        return Check(name="MMDetection", found="cannot be imported", note=str(error))
    found = "mmcv's own operators (compiled mmcv._ext)" if operators == "mmcv" else "torch's operators (mmcv has none)"
    return Check(name="MMDetection", found=found)


def _weights(name: str, place: Path) -> Check:
    hashes = provenance.weights_sha256(place) if place.exists() else {}
    if not hashes:
        problem = f"{name}: no weights at {place}; fetch the repository's large files or install the package again"
        return Check(name=name, found="none", problem=problem)
    parts = [f"{key} {value[:16]}" if len(hashes) > 1 else value for key, value in hashes.items()]
    return Check(name=name, found="\n".join(parts))


def _scorer(plan: Plan) -> Check:
    wrong = []
    for name, case, detections, right in VERDICTS:
        keys = ("name", "score", "box_xyxy_px", "color")
        found = [dict(zip(keys, detection, strict=True)) for detection in detections]
        observation = {"width": 64, "height": 64, "detections": found, "plan": None}
        if plan.suite.score(case, observation, plan.options).correct != right:
            wrong.append(name)
    problem = f"the scorer says otherwise: {'; '.join(wrong)}" if wrong else None
    return Check(
        name="scorer self-test", found=f"{len(VERDICTS) - len(wrong)} of {len(VERDICTS)} verdicts", problem=problem
    )


def _flawless() -> list[Image.Image]:
    """The image of each prompt in `SELF_TEST_PROMPTS`."""
    made = OracleGenerator().generate(_samples())
    return [one.image for one in made if one.image is not None]


def _samples() -> list[Sample]:
    return [Sample(case=case, index=0, seed=number) for number, case in enumerate(SELF_TEST_PROMPTS)]


def _reads_flawless_images(plan: Plan) -> Check:
    """Detector and CLIP of icons on flawless images: each passes its own prompt and fails the next one's."""
    detector = plan.settings.detector if plan.context.world == ICON_WORLD else "icon"
    tools = Tools(detector=lambda: detectors.make_detector(detector), embedder=lambda: embedders.make_embedder("icon"))
    samples, images = _samples(), _flawless()
    wrong = []
    for shift, right in ((0, True), (1, False)):
        shown = [*images[shift:], *images[:shift]]
        batch = [Drawn(sample=sample, image=image) for sample, image in zip(samples, shown, strict=True)]
        observations = plan.suite.observe(batch, tools, plan.options)
        for sample, observation in zip(samples, observations, strict=True):
            judged = plan.suite.score(sample.case, observation, plan.options)
            if judged.correct != right:
                whose = "its own image" if right else "another image"
                wrong.append(f"{sample.case.prompt!r} on {whose}: {judged.reason or 'passes'}")
    total = 2 * len(samples)
    problem = (
        f"the detector {detector} or the embedded CLIP misreads flawless images ({'; '.join(wrong)}): "
        "its weights do not fit its config or the libraries are broken"
    )
    name = "detector and CLIP self-test"
    return Check(name=name, found=f"{total - len(wrong)} of {total} images", problem=problem if wrong else None)
