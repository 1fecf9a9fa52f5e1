"""From a run's spec to all that follows from it: cases, identity, who draws, who looks. Each is made when asked for."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.core import folder_listing
from evals.core import options as flags
from evals.core.backends import ICON_WORLD, Tools
from evals.core.records import Sample, UserError, note, sample_seed, unfit
from evals.detectors import registry as detectors
from evals.embedders import registry as embedders
from evals.generators import folder_images
from evals.generators import registry as generators
from evals.generators.folder_images import Assignment
from evals.generators.oracle import oracle_render
from evals.generators.registry import GeneratorOptions
from evals.harness import weight_places
from evals.harness.run_spec import RunSpec, find_suite, in_share, of_tasks, spread, world_of
from evals.suite import GENERATE, OBSERVE, VERDICT, Context
from got.util import provenance
from got.util.cli import resolve_device, set_threads
from got.util.errors import warn
from got.util.files import inside
from got.util.garbage import loading
from got.util.hub import unreachable
from got.util.tables import counted
from got.util.workers.options import FLAGS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from evals.core.backends import Detector, Embedder, Generator
    from evals.core.records import Case
    from evals.judges.handing import HandingJudge, HearingJudge
    from evals.suite import Suite


SHARE = ("shard", "batch_size")
"""Keys of an identity that tell a part of a run from the other parts."""


class Plan:
    """A run. It travels to another process as its spec.

    Args:
        spec: The run.
        suite: Its suite, where that is at hand.
    """

    def __init__(self, spec: RunSpec, suite: Suite[Any] | None = None) -> None:
        self.spec, self.settings, self.options = spec, spec.settings, spec.options
        self.suite = suite or find_suite(spec.suite)
        self.model, self._argument = generators.parse_model(self.settings.model)
        self._place = self.settings.checkpoint if self.model == "got" else self._argument

    def __reduce__(self) -> tuple[type[Plan], tuple[RunSpec]]:
        return Plan, (self.spec,)

    def check(self) -> Plan:
        """Returns the plan, or raises where it is known without a model that it cannot be run.

        Raises:
            UserError: It cannot.
        """
        self.settings.check(self.spec.given)
        if self._draws_now:
            self.suite.part(self.options).check_judge(self.options)
        # The doctor tries each by itself; judging looks at nothing, and a run may outlive what looked at its images.
        if not self.settings.doctor and self.settings.start != VERDICT:
            if self.suite.detects(self.options):
                detectors.find_detector(self.settings.detector)
            embedders.find_embedder(self.settings.embedder)
        self._refuse_unchosen_detector()
        _ = self.identity, self.samples
        if self.folder is not None and not self._later:
            for sentence in self.folder.notes:
                note(f"--model {self.settings.model}: {sentence}")
        return self

    @property
    def _draws_now(self) -> bool:
        """Whether images are drawn or asked about now, not only counted, written out or scored again."""
        settings = self.settings
        only = settings.doctor or settings.dry_run or settings.export_prompts is not None
        return not only and settings.start != VERDICT

    # -------------------------------------------------------------------------------------------------------- what
    @functools.cached_property
    def context(self) -> Context:
        """What the suite may know of the run."""
        settings = self.settings
        drawn = settings.place_in(settings.output) / "images" if settings.output is not None and self._later else None
        return Context(
            model=settings.model,
            checkpoint=settings.checkpoint if self.model == "got" else None,
            detector=settings.detector,
            world=world_of(self.suite, settings, self.options),
            images_per_prompt=settings.images_per_prompt,
            seed=settings.seed,
            drawn=drawn,
        )

    @property
    def _later(self) -> bool:
        """Whether only later stages are done, which need nothing but what the run directory has."""
        return self.settings.start in (OBSERVE, VERDICT)

    @functools.cached_property
    def _every(self) -> list[Case]:
        found = self.suite.cases(self.options, self.context)
        ids = [case.id for case in found]
        wrong = [one for one in ids if "/" in one or inside(Path("images"), one) is None]
        if wrong or len(set(ids)) < len(ids):  # they name folders, and seeds
            wrong = wrong or [one for one in set(ids) if ids.count(one) > 1]
            raise UserError(
                f"{self.suite.name}: expected case ids that differ and can name a folder but got {wrong[0]!r}"
            )
        for case in found:
            if fault := unfit(case.tag, case.prompt):
                raise UserError(f"{self.suite.name}: case {case.id}: {fault}")
        return found

    @functools.cached_property
    def cases(self) -> list[Case]:
        """The cases that are run."""
        return spread(of_tasks(self._every, self.settings.tasks), self.settings.limit)

    @functools.cached_property
    def samples(self) -> list[Sample]:
        """Every image of the run, or of its share, sorted by case and index."""
        name, seed = self.suite.name, self.settings.seed
        every = [
            Sample(case=case, index=index, seed=sample_seed(name, case.id, index, seed))
            for case in self.cases
            for index in range(self.settings.images_per_prompt)
        ]
        if self.settings.shard is None:
            return every
        (which, count), size = self.settings.shard, self.batch_size
        batches = -(-len(every) // size)
        if count > batches:
            what = f"{batches} batches of {size} images are too few for {count} shares"
            raise UserError(f"--shard {which}/{count}: {what}; expected {batches} at most, or a smaller --batch-size")
        return [sample for number, sample in enumerate(every) if in_share(number, size, self.settings.shard)]

    @functools.cached_property
    def folder(self) -> Assignment | None:
        """The files of ``--model folder:PATH`` by case and index."""
        if self.model != "folder":
            return None
        root = Path(self._argument)
        if root.suffix == ".json" and not root.is_dir() and not self._later:
            return folder_images.assign_by_prompt(root, self.cases)
        layouts = {case.id: self.suite.layout(case, self.options) for case in self._every}
        if not self._later and (placed := folder_images.assign_official(root, layouts, self.cases)) is not None:
            return placed
        try:
            found = folder_listing.list_folder(root, layouts[self.cases[0].id][:1] if self.cases else ())
            return folder_images.assign(found, self._every, self.cases, self.settings.images_per_prompt)
        except UserError:
            if not self._later:
                raise
            return Assignment(root=root, files={}, faults={}, notes=(), counts={})

    @functools.cached_property
    def sources(self) -> Sequence[dict[str, Any]]:
        """Of ``--model folder:PATH``, what each sample is made of, see `folder_images.fingerprints`."""
        if self.folder is None:
            return []
        return folder_images.fingerprints(self.folder, self.cases, self.settings.images_per_prompt)

    @functools.cached_property
    def batch_size(self) -> int:
        """Images drawn and observed together."""
        usual = generators.batch_size(self.model, self.settings.checkpoint)
        # Images that are there already wait for a judge alone: enough of them keep all its requests busy.
        waiting = 2 * self.suite.concurrent_requests(self.options) if self.model in generators.DRAWN_ALREADY else 0
        return self.settings.batch_size or max(usual, waiting)

    @functools.cached_property
    def output(self) -> Path:
        """The run directory; by default of a name that the same command finds again, and none that draws others."""
        if self.settings.output is not None:
            return self.settings.place_in(self.settings.output)
        # Changed images of a folder are to be refused, so they must lead to the same run; and so do all its shares.
        named = {key: value for key, value in self.identity[GENERATE].items() if key not in ("folder_sha256", *SHARE)}
        digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:8]
        limit = self.settings.limit
        run = Path("runs") / "-".join([self.suite.name, self.model, *([f"limit{limit}"] if limit else []), digest])
        return self.settings.place_in(run)

    @functools.cached_property
    def prompts_sha256(self) -> str:
        """Hash of what its cases ask for."""
        return hashlib.sha256(json.dumps([case.metadata for case in self.cases]).encode()).hexdigest()

    @functools.cached_property
    def identity(self) -> dict[str, dict[str, Any]]:
        """For each stage, everything that decides its outcome. A run directory belongs to one identity."""
        drawn, looks = (flags.deciding(self.settings, stage) for stage in (GENERATE, OBSERVE))
        if not self.suite.detects(self.options):
            del looks["detector"]
        stages: dict[str, dict[str, Any]] = {
            GENERATE: {
                "suite": self.suite.name,
                **drawn,
                **{name: value for name, value in self.usual.items() if drawn[name] is None},
                "prompts_sha256": self.prompts_sha256,
                **self._drawn_from(),
                **self._share(),
            },
            OBSERVE: {**looks, "weights_sha256": weight_places.hashes_of(looks)},
            VERDICT: {"version": self.suite.version},
        }
        return {stage: {**own, **flags.deciding(self.options, stage)} for stage, own in stages.items()}

    @property
    def used(self) -> dict[str, dict[str, Any]]:
        """The identity for people: null is what this model, or this benchmark, has no use for."""
        heeds = generators.GENERATORS[self.model].heeds
        idle = {
            field.name for field, flag in flags.flags_of(self.settings) if flag.heeded_by and field.name not in heeds
        }
        idle |= set() if self.suite.part(self.options).looks else {"embedder"}
        return {
            stage: {name: None if name in idle else value for name, value in own.items()}
            for stage, own in self.identity.items()
        }

    def _share(self) -> dict[str, Any]:
        shard = self.settings.shard
        return {} if shard is None else dict(zip(SHARE, (list(shard), self.batch_size), strict=True))

    def weight_places(self) -> dict[str, Path]:
        """Where weights lie on this machine that settings and options name, by who uses them."""
        own = {"generator": generators.GENERATORS[self.model].weights(self._place)}
        places = own | weight_places.named(self.settings) | weight_places.named(self.options)
        return {role: place for role, place in places.items() if place is not None and place.exists()}

    def with_weights_at(self, places: Mapping[str, Path]) -> Plan:
        """The same plan, with some of these files elsewhere, by their path."""
        given = dataclasses.replace(self.spec, settings=weight_places.moved(self.settings, places))
        return Plan(dataclasses.replace(given, options=weight_places.moved(self.options, places)))

    def _drawn_from(self) -> dict[str, Any]:
        """What a generator has on this machine: its weights, or the images of its folder."""
        place = self.weight_places().get("generator")
        found: dict[str, Any] = {"weights_sha256": {} if place is None else provenance.weights_sha256(place)}
        if self.model == "folder":  # a relative and an absolute path are one folder
            place = Path(self._argument).resolve()
            found |= {"model": f"folder:{place}", "folder_sha256": folder_images.digest_of(self.sources)}
        return found

    @property
    def arguments(self) -> dict[str, Any]:
        """As given and as resolved; for run.json."""
        return {
            "given": lasting(self.spec.words),
            "resolved": {**flags.as_json(self.settings), **flags.as_json(self.options)},
            "batch_size": self.batch_size,
            **({} if self.folder is None else {"folder": self.folder.counts}),
        }

    @functools.cached_property
    def usual(self) -> dict[str, Any]:
        """The generator's own settings, which hold where no flag says otherwise; another version may have others."""
        return generators.usual(self.model, self._place, edit=any(case.edit is not None for case in self.cases))

    def _refuse_unchosen_detector(self) -> None:
        """Images of unknown origin have no default detector: photographs score 0 with that of the icon world.

        Edits need none: without ``--data`` they are of the icon world, and with it no detector looks.
        """
        settings = self.settings
        told = "detector" in self.spec.given or settings.start == VERDICT
        if told or any(case.edit is not None for case in self.cases):
            return
        if generators.draws_icons(self.model, settings.checkpoint) or not self.suite.detects(self.options):
            return
        what = f"--checkpoint {settings.checkpoint}" if self.model == "got" else f"--model {settings.model}"
        if self.model == "got" and (fault := unreachable(settings.checkpoint)) is not None:
            raise UserError(f"{what}: {fault}")
        raise UserError(f"{what} needs --detector, which looks at its images: {detectors.choices()}")

    # --------------------------------------------------------------------------------------------------------- who
    @functools.cached_property
    @loading()
    def device(self) -> str:
        """Where models run. The number of torch's threads is decided with it, before the first model is built."""
        set_threads()
        return resolve_device(self.settings.device)

    @functools.cached_property
    def machine(self) -> dict[str, Any]:
        """Versions, commit, device; for run.json. Imports torch, so only asked when a model will run."""
        return self.machine_with(self.device)

    def machine_with(self, device: str) -> dict[str, Any]:
        """The same record for samples that another process computes on its device; imports no torch."""
        return {
            **provenance.commit(),
            "code_sha256": provenance.code_sha256(),
            "packages": provenance.package_versions(),
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "device": device,
            "dtype": self.settings.dtype,
            **({"compiled": True} if self.settings.compile else {}),
        }

    @functools.cached_property
    def generator(self) -> Generator:
        """The generator that draws the images."""
        return generators.GENERATORS[self.model].build(self._generator_options())

    def _generator_options(self) -> GeneratorOptions:
        settings = self.settings
        return GeneratorOptions(
            model=self.model,
            argument=self._argument,
            checkpoint=settings.checkpoint,
            steps=settings.steps,
            semantic=settings.semantic == "on",
            spatial=settings.spatial == "on",
            reference=settings.reference == "on",
            semantic_scale=settings.semantic_scale,
            spatial_scale=settings.spatial_scale,
            reference_scale=settings.reference_scale,
            guidance_interval=settings.guidance_interval,
            chain=settings.chain,
            device=self.device,
            dtype=settings.dtype,
            scheduler=settings.scheduler,
            reference_compat=settings.reference_compat,
            own_size=settings.own_size,
            offload=settings.offload,
            compiled=settings.compile,
            prompts=tuple(case.prompt for case in self.cases if case.edit is None),
            folder=self.folder,
        )

    @functools.cached_property
    def tools(self) -> Tools:
        """The detector and the embedder. What cannot be had fails here, before the first image."""
        tools = self._tools_on(self.device)
        if self.suite.detects(self.options):
            _ = tools.detector
        if self.suite.needs_embedder(self.cases):
            _ = tools.embedder
        return tools

    def _tools_on(self, device: str, model: Callable[[str, str], Any] | None = None) -> Tools:
        """The tools on a device, each built when it is first asked for."""
        settings = self.settings

        def detector() -> Detector:
            return detectors.make_detector(settings.detector, device)

        def embedder() -> Embedder:
            return embedders.make_embedder(settings.embedder, device)

        icons = self.context.world == ICON_WORLD
        return Tools(
            detector=detector,
            embedder=embedder,
            oracle_render=oracle_render if icons else None,
            device=device,
            model=model,
        )

    def taking_over(self, other: Plan) -> Plan:
        """This plan, given those loaded parts of another one that it would load again; the other one loses them.

        Args:
            other: A plan that is done; if it is of the same run, it goes on itself.
        """
        if other is self or other.spec == self.spec:
            return other
        mine, its = vars(self), vars(other)
        generator, tools = its.pop("generator", None), its.pop("tools", None)
        for name in ("instruments", "judge", "handing_judge"):
            its.pop(name, None)
        if tools is not None and self._looks() == other._looks():
            mine.setdefault("tools", tools)
        if hasattr(generator, "with_options"):
            again = generator.with_options(self._generator_options())
            if again is not None:
                mine.setdefault("generator", again)
        return self

    def _looks(self) -> tuple[str, ...]:
        """Everything that `tools` depend on."""
        return self.settings.detector, self.settings.embedder, self.device, self.context.world

    @functools.cached_property
    def instruments(self) -> Any:
        """What the suite observes with, made of the tools; `UserError` if that cannot be had or cannot do."""
        check_classes(self.suite, self.cases, self.tools, allowed=self.settings.allow_missing_classes)
        return self.suite.prepare(self.tools, self.options)

    @functools.cached_property
    def judge(self) -> Any:
        """Who is asked about images; `UserError` if that cannot be had. One behind an endpoint needs nothing loaded."""
        tools = self._tools_on("cpu") if self.suite.concurrent_requests(self.options) else self.tools
        return self.suite.make_judge(tools, self.options)

    @property
    def has_local_judge(self) -> bool:
        """Whether the judge is a model of transformers, so that the next two are the same but for where it runs."""
        return str(getattr(self.options, "judge", "")).startswith("hf:")

    def _judge_of(self, device: str, model: Callable[[str, str], Any]) -> Any:
        return self.suite.make_judge(self._tools_on(device, model), self.options)

    @functools.cached_property
    def handing_judge(self) -> HandingJudge:
        """The judge with a model here, whose replies are handed on to another process."""
        from evals.judges.handing import HandingJudge  # here, because few runs ask a model of this machine

        return HandingJudge(functools.partial(self._judge_of, self.device))

    @functools.cached_property
    def hearing_judge(self) -> HearingJudge:
        """The judge without its model, which gets the replies that another process hands on."""
        from evals.judges.handing import HearingJudge  # here, because few runs ask a model of this machine

        return HearingJudge(functools.partial(self._judge_of, "cpu"))


def missing_classes(suite: Suite[Any], case: Case, tools: Tools) -> tuple[str, ...]:
    """The classes that a case needs and the detector has no label for. No detector is built where none is needed."""
    needed = suite.classes(case)
    return tuple(sorted(needed - tools.detector.classes)) if needed else ()


def check_classes(suite: Suite[Any], cases: Sequence[Case], tools: Tools, *, allowed: bool) -> None:
    """Refuses a detector that can never find what some cases need: every image of them would count as wrong.

    Args:
        suite: The benchmark.
        cases: All of the run.
        tools: With the detector.
        allowed: Go on, with these cases missing; it is only said.

    Raises:
        UserError: Classes are missing and that is not allowed, or no case is left.
    """
    lacking = [names for case in cases if (names := missing_classes(suite, case, tools))]
    if not lacking:
        return
    classes = sorted({name for names in lacking for name in names})
    said = f"{tools.detector.name} has no label for {len(classes)} of the classes that these cases need, which leaves "
    said += f"{counted(len(lacking), 'cases', of=len(cases))} without a score ({', '.join(classes)})"
    if not allowed:
        raise UserError(f"{said}; --allow-missing-classes goes on, and counts these cases as missing")
    if len(lacking) == len(cases):
        raise UserError(said)
    warn(said)


def lasting(words: Sequence[str]) -> list[str]:
    """The command line without the flags that say where, by which processes and what to redo, for a later `--from`.

    >>> lasting(["--model", "got", "--engine", "ray", "--workers=2", "--from", "verdict", "--output=x"])
    ['--model', 'got']
    >>> lasting(["--threshold", "0.3", "--from", "verdict", "--threshold", "0.5"])
    ['--threshold', '0.5']
    """
    flags: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name = word.partition("=")[0]
            flags[name] = []  # the last one counts
        flags.setdefault(name, []).append(word)
    passing = {"--from", "--output", "--shard", "--engine", *(f"--{name.replace('_', '-')}" for name in FLAGS)}
    return [word for name, group in flags.items() if name not in passing for word in group]
