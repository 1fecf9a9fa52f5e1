"""From checked arguments to a plan: who draws, who looks, under which name the run is kept."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.core import folder_listing, provenance
from evals.core.protocols import Tools
from evals.core.records import UserError, note, world_of
from evals.detectors.registry import CHOICES, check_detector
from evals.embedders.registry import check_embedder
from evals.generators import folder_images
from evals.generators import registry as generators
from evals.generators.dataset_images import PICTURES
from evals.generators.folder_images import Assignment
from evals.generators.options import GeneratorOptions
from evals.generators.oracle import oracle_render
from evals.harness.engines import ENGINES
from evals.harness.runner import Plan

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from evals.core.protocols import Detector, Embedder, Suite
    from evals.core.records import Case, Detection

ICON_EMBEDDER, PHOTO_EMBEDDER = "icon", "openclip:ViT-L-14/openai"

ICON_WEIGHTS = {
    "detector": Path(__file__).parents[1] / "assets" / "icon_detector.safetensors",
    "embedder": Path(__file__).parents[1] / "assets" / "icon_clip.safetensors",
}

_GUIDANCE = ("semantic", "spatial", "reference", "semantic_scale", "spatial_scale", "reference_scale", "chain")
_GENERATE = ("model", "checkpoint", "limit", "images_per_prompt", "seed", "steps", "scheduler", *_GUIDANCE, "dtype")
_GOT_ALONE = ("checkpoint", "scheduler", *_GUIDANCE, "reference_compat")
_PLACE = ("offload", "compile")
_OBSERVE = ("detector", "embedder")
_WITHOUT_EFFECT = {
    **dict.fromkeys(("oracle", "folder", *PICTURES), ("steps", *_GOT_ALONE, *_PLACE)),
    "diffusers": _GOT_ALONE,
    "got": (),
}


class LazyEmbedder:
    """An embedder that is built when first used."""

    def __init__(self, name: str, make: Callable[[], Embedder]) -> None:
        self.name = name
        self._make = make
        self._built: Embedder | None = None

    def embed_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Unit vectors, float32 (n, d)."""
        return self.build().embed_images(images)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors, float32 (n, d)."""
        return self.build().embed_texts(texts)

    def build(self) -> Embedder:
        """The embedder itself."""
        if self._built is None:
            self._built = self._make()
        return self._built


class LazyDetector:
    """A detector that is built when first used."""

    def __init__(self, name: str, make: Callable[[], Detector]) -> None:
        self.name = name
        self._make = make

    @functools.cached_property
    def _built(self) -> Detector:
        return self._make()

    @functools.cached_property
    def min_score(self) -> float:
        """Detections below this score are not returned."""
        return self._built.min_score

    @functools.cached_property
    def classes(self) -> frozenset[str]:
        """The GenEval classes that it has a label for."""
        return self._built.classes

    def detect(self, images: Sequence[Image.Image]) -> list[list[Detection]]:
        """Detections of each RGB image, best first, boxes in that image's pixels."""
        return self._built.detect(images)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """What a person asked for."""

    args: argparse.Namespace
    """Every argument, with its default where it was not given."""
    given: set[str]
    """Names of the arguments that were given."""
    words: list[str]
    """The command line itself, after that of the run which it goes on with, if it does."""


def make_plan(suite: Suite, command: CommandLine, prepare: Callable[[], None]) -> Plan:
    """Resolves and checks arguments; loads no model and writes nothing.

    Args:
        suite: The benchmark.
        command: Its arguments; defaults that depend on others are filled in here.
        prepare: Called once before the first model is built.
    """
    args = command.args
    name, argument = generators.parse_model(args.model)
    _refuse_idle(name, args, command.given)
    args.embedder = embedder_of(args)
    # The doctor tries each by itself; judging looks at nothing, and a run may outlive what looked at its images.
    if not args.doctor and args.start != "verdict":
        if is_detected(args):
            check_detector(args.detector)
        check_embedder(args.embedder)
    every = suite.load_cases(args)
    cases = spread(of_tasks(every, args.tasks), args.limit)
    _refuse_unchosen_detector(command, name, cases)
    folder = _folder(args, argument, every, cases) if name == "folder" else None
    sources = [] if folder is None else folder_images.fingerprints(folder, cases, args.images_per_prompt)
    identity = _identity(suite, args, cases, sources)
    batch_size = args.batch_size or generators.batch_size(name, args.checkpoint)

    @functools.cache
    def device() -> str:
        prepare()
        return resolve_device(args.device)

    return Plan(
        suite=suite,
        args=args,
        cases=cases,
        output=args.output or _default_output(suite, args, name, identity["generate"]),
        batch_size=batch_size,
        start=args.start,
        identity=identity,
        arguments={
            "given": _lasting(command.words),
            "resolved": _jsonable(args),
            "batch_size": batch_size,
            **({} if folder is None else {"folder": folder.counts}),
        },
        sources=sources,
        machine=lambda: {
            **_machine(),
            "device": device(),
            "dtype": args.dtype,
            **({"compiled": True} if args.compile else {}),
        },
        make_generator=lambda: generators.GENERATORS[name](_options(args, argument, device(), folder)),
        make_tools=lambda: _make_tools(args, device(), needs_embedder=suite.needs_embedder(cases)),
        engine=ENGINES[args.engine],
    )


def embedder_of(args: argparse.Namespace) -> str:
    """The embedder that is given, or the companion of the detector."""
    companion = ICON_EMBEDDER if world_of(args) == "icon world" else PHOTO_EMBEDDER
    return companion if args.embedder == "auto" else str(args.embedder)


def of_tasks(cases: Sequence[Case], tasks: Sequence[str]) -> list[Case]:
    """The cases of some tasks, which keep their ids; of all where none is named.

    Raises:
        UserError: There is no such task.

    >>> from evals.core.records import Case
    >>> cases = [Case(id=str(i), prompt="", tag="ab"[i > 3], metadata={}) for i in range(6)]
    >>> [case.id for case in of_tasks(cases, ["b"])]
    ['4', '5']
    """
    known = dict.fromkeys(case.tag for case in cases)
    unknown = [name for name in tasks if name not in known]
    if unknown:
        # A name with a comma is quoted: it is one name, and only a JSON list can give it.
        said, tasks_are = (", ".join(json.dumps(x) if "," in x else x for x in names) for names in (unknown, known))
        raise UserError(f"--tasks: {said} is no task here; the tasks are {tasks_are}")
    return [case for case in cases if not tasks or case.tag in tasks]


def spread(cases: Sequence[Case], limit: int | None) -> list[Case]:
    """`limit` cases, shared evenly by the tasks and evenly spaced inside each; order kept. None keeps all.

    >>> from evals.core.records import Case
    >>> cases = [Case(id=str(i), prompt="", tag="ab"[i > 3], metadata={}) for i in range(10)]
    >>> [case.id for case in spread(cases, 4)]
    ['0', '2', '4', '7']
    """
    if limit is None or limit >= len(cases):
        return list(cases)
    tasks: dict[str, list[Case]] = {}
    for case in cases:
        tasks.setdefault(case.tag, []).append(case)
    quotas = dict.fromkeys(tasks, 0)
    while (left := limit - sum(quotas.values())) > 0:
        for tag in [tag for tag in tasks if quotas[tag] < len(tasks[tag])][:left]:
            quotas[tag] += 1
    kept = {members[i * len(members) // quotas[tag]].id for tag, members in tasks.items() for i in range(quotas[tag])}
    return [case for case in cases if case.id in kept]


def _refuse_idle(model: str, args: argparse.Namespace, given: set[str]) -> None:
    """A flag that would change nothing is a misunderstanding: say so now rather than print a puzzling table."""
    idle = [f"--{name.replace('_', '-')}" for name in _WITHOUT_EFFECT[model] if name in given]
    if idle:
        raise UserError(f"{', '.join(idle)} has no effect with --model {model}")
    if args.reference_compat and args.scheduler not in (None, "ddpm"):
        raise UserError("--scheduler cannot be used with --reference-compat: the released code samples by DDPM only")


def _folder(args: argparse.Namespace, argument: str, every: Sequence[Case], chosen: Sequence[Case]) -> Assignment:
    """The files of a folder by case and index; what is odd about them is said at once."""
    root = Path(argument)
    try:
        assignment = folder_images.assign(folder_listing.list_folder(root), every, chosen, args.images_per_prompt)
    except UserError:
        if args.start not in ("observe", "verdict"):
            raise
        # Later stages go by what the run has: the folder may be gone.
        return Assignment(root=root, files={}, faults={}, notes=(), counts={})
    if args.start not in ("observe", "verdict"):
        for sentence in assignment.notes:
            note(f"--model folder:{argument}: {sentence}")
    return assignment


def _refuse_unchosen_detector(command: CommandLine, model: str, cases: Sequence[Case]) -> None:
    """Images of unknown origin have no default detector: photographs score 0 with that of the icon world.

    The edits of a suite need none: without ``--data`` they are of the icon world, and with it no detector looks.
    """
    args = command.args
    told = "detector" in command.given or args.start == "verdict"
    if told or any(case.edit is not None for case in cases) or generators.draws_icons(model, args.checkpoint):
        return
    what = f"--checkpoint {args.checkpoint}" if model == "got" else f"--model {args.model}"
    raise UserError(f"{what} needs --detector, which looks at its images: {CHOICES}")


def _identity(
    suite: Suite, args: argparse.Namespace, cases: list[Case], sources: Sequence[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    values = _jsonable(args)
    roles = _OBSERVE if is_detected(args) else ("embedder",)
    prompts = hashlib.sha256(json.dumps([case.metadata for case in cases]).encode()).hexdigest()
    return {
        "generate": {
            "suite": suite.name,
            **{key: values[key] for key in _GENERATE},
            **({"reference_compat": True} if args.reference_compat else {}),
            **({"tasks": list(args.tasks)} if args.tasks else {}),
            "prompts_sha256": prompts,
            **_drawn_from(args, sources),
        },
        "observe": {
            **{key: values[key] for key in (*roles, *suite.observe_options)},
            "weights_sha256": _scorer_weights(args, roles),
        },
        "verdict": {"version": suite.version, **{key: values[key] for key in suite.verdict_options}},
    }


def _jsonable(args: argparse.Namespace) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}


def _lasting(words: Sequence[str]) -> list[str]:
    """The command line without the flags that say where and what to redo: what a later `--from` builds on.

    >>> _lasting(["--model", "got", "--from", "verdict", "--output=x"])
    ['--model', 'got']
    """
    kept: list[str] = []
    skip = False
    for word in words:
        name, equals, _ = word.partition("=")
        if not skip and name not in ("--from", "--output"):
            kept.append(word)
        skip = not skip and name in ("--from", "--output") and not equals
    return kept


def is_detected(args: argparse.Namespace) -> bool:
    """Whether a detector looks at the pictures: at those of a published set of edits none does."""
    return getattr(args, "data", None) is None


def _drawn_from(args: argparse.Namespace, sources: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a generator has on this machine: its weights, or the images of its folder."""
    name, argument = generators.parse_model(args.model)
    place = generators.weights_place(name, argument, args.checkpoint)
    found: dict[str, Any] = {"weights_sha256": {} if place is None else provenance.weights_sha256(place)}
    if name == "folder":  # a relative and an absolute path are one folder
        found |= {"model": f"folder:{Path(argument).resolve()}", "folder_sha256": folder_images.digest_of(sources)}
    return found


def _scorer_weights(args: argparse.Namespace, roles: Sequence[str]) -> dict[str, str]:
    """Hashes of the detector's and the embedder's weights that lie on this machine."""
    from evals.embedders.clip import SQUASH

    found: dict[str, str] = {}
    for role in roles:
        name = getattr(args, role).removesuffix(SQUASH)
        place = ICON_WEIGHTS[role] if name == "icon" else _scorer_place(name)
        if place.exists():
            found |= {f"{role}/{key}": value for key, value in provenance.weights_sha256(place).items()}
    return found


def _scorer_place(name: str) -> Path:
    """Where the weights of a detector or an embedder may lie: ``KIND:PATH``, ``PATH`` or ``openclip:MODEL/FILE``."""
    kind, _, argument = name.partition(":")
    place = Path(argument or name)
    weights = Path(argument.partition("/")[2])
    return weights if kind == "openclip" and weights.is_file() and not place.exists() else place


def _default_output(suite: Suite, args: argparse.Namespace, model: str, identity: dict[str, Any]) -> Path:
    """A name that the same command finds again, and no other command that draws other images."""
    # Changed images of a folder are to be refused, so they must lead to the same run.
    named = {key: value for key, value in identity.items() if key != "folder_sha256"}
    digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:8]
    words = [suite.name, model, *([f"limit{args.limit}"] if args.limit else []), digest]
    return Path("runs") / "-".join(words)


def _options(args: argparse.Namespace, argument: str, device: str, folder: Assignment | None) -> GeneratorOptions:
    return GeneratorOptions(
        argument=argument,
        checkpoint=args.checkpoint,
        steps=args.steps,
        semantic=args.semantic == "on",
        spatial=args.spatial == "on",
        reference=args.reference == "on",
        semantic_scale=args.semantic_scale,
        spatial_scale=args.spatial_scale,
        reference_scale=args.reference_scale,
        chain=args.chain,
        device=device,
        dtype=args.dtype,
        scheduler=args.scheduler,
        reference_compat=args.reference_compat,
        offload=args.offload,
        compiled=args.compile,
        folder=folder,
    )


def resolve_device(name: str) -> str:
    """A device that torch can use here: the one named, or for ``auto`` a GPU if there is one.

    Raises:
        UserError: There is no such device.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    # A missing CUDA is an AssertionError or a RuntimeError, by how torch was built.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device {name} cannot be used: {' '.join(str(error).split())[:200]}") from error
    return name


def _machine() -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {
        **provenance.commit(),
        "code_sha256": provenance.code_sha256(),
        "packages": provenance.package_versions(),
        "started": now,
    }


def _make_tools(args: argparse.Namespace, device: str, *, needs_embedder: bool) -> Tools:
    from evals.detectors.registry import make_detector
    from evals.embedders.registry import make_embedder

    def find() -> Detector:
        return make_detector(args.detector, device)

    # The type checker wants a min_score that could be set; nobody sets it.
    detector: Detector = find() if is_detected(args) else LazyDetector(args.detector, find)  # type: ignore[assignment]
    embedder = LazyEmbedder(args.embedder, lambda: make_embedder(args.embedder, device))
    if needs_embedder:  # that it cannot be had is better known before the first image than after the fortieth
        embedder.build()
    return Tools(
        detector=detector,
        embedder=embedder,
        oracle_render=oracle_render if world_of(args) == "icon world" else None,
        device=device,
    )
