"""What computes a batch: draws its samples, observes the images, and never lets one bad sample take others with it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import time
from typing import TYPE_CHECKING, Any, TypeVar

from evals.core.records import Drawn, Generated, UserError
from evals.core.run_directory import RunDirectory, key_of
from evals.harness.plan import missing_classes
from got.util.images import as_rgb, open_image, png_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL import Image

    from evals.core.protocols import Generator
    from evals.core.records import Sample
    from evals.core.run_directory import Key
    from evals.harness.plan import Plan

Item = TypeVar("Item")
Result = TypeVar("Result")

_HOPELESS, _CASES = 8, 4
"""So many exceptions in a row in one stage, on so many cases, mean a broken set-up rather than hard samples.

So do those of all samples of a shorter run, and images about which nobody answers."""
_RESUMES = "once that is mended, the same command resumes"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Why a sample has no result."""

    stage: str
    """``"generate"`` or ``"observe"``."""
    error: str
    raised: bool = False
    """Whether the reason is an exception, which may not come again, rather than a missing or damaged image."""
    missing_classes: tuple[str, ...] = ()
    """Classes that the case needs and the detector has no label for, if that is why."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one sample."""

    sample: Sample
    png: bytes | None
    """The image file to write; None if it is on disk already or there is none."""
    chain: str | None
    warnings: tuple[str, ...]
    observation: dict[str, Any] | Failed
    generate_s: float | None = None
    """Its share of the time in which its batch was drawn; None if it was not drawn now."""
    observe_s: float = 0.0
    """Its share of the time in which its batch was observed."""


def describe_error(error: Exception) -> str:
    r"""An exception in one line.

    >>> describe_error(ValueError("two\nlines"))
    'ValueError: two lines'
    """
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RecordedImage:
    """A logged image, as its file holds it, or why it cannot be used."""

    name: str
    chain: str | None
    data: bytes = b""
    error: str | None = None

    def opened(self) -> Generated:
        """The image with its chain, in the form in which a generator returns them."""
        if self.error is not None:
            return Generated(image=None, error=self.error)
        return Generated(image=open_image(self.data, self.name, max_aspect=math.inf), chain=self.chain)


class RecordedImages:
    """Stands in for the generator when a run is observed again: hands out the images and chains on disk."""

    name = "recorded"

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._chains = {key_of(line): line for line in run.mended(run.chains)}

    def generate(self, samples: Sequence[Sample]) -> list[Generated]:
        """The logged image of each sample, or why it cannot be used."""
        return [self.read(sample).opened() for sample in samples]

    def read(self, sample: Sample) -> RecordedImage:
        """The file of a sample."""
        name = self._run.image_name(sample)
        record = self._chains[(sample.case.id, sample.index)]
        image = functools.partial(RecordedImage, name=name, chain=record["chain"])
        try:
            data = (self._run.path / name).read_bytes()
        except OSError as error:
            return image(error=f"{name}: {error.strerror}")
        if hashlib.sha256(data).hexdigest() != record["sha256"]:
            return image(error=f"{name}: damaged or changed since it was drawn")
        return image(data=data)


class SentImages:
    """The same for a process that cannot read the run directory: the images were sent with the samples."""

    name = "recorded"

    def __init__(self, samples: Sequence[Sample], images: Sequence[RecordedImage]) -> None:
        self._images = {(s.case.id, s.index): image for s, image in zip(samples, images, strict=True)}

    def generate(self, samples: Sequence[Sample]) -> list[Generated]:
        """The image of each sample, or why it cannot be used."""
        return [self._images[sample.case.id, sample.index].opened() for sample in samples]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a worker is to do; it travels to another process with its plan's spec, and makes the worker there."""

    plan: Plan
    recorded: bool = False
    """Whether the images are on disk already."""
    hard: frozenset[Key] = frozenset()
    """Samples that failed before while others did not: their exceptions do not mean a broken set-up."""
    asks: bool = True
    """Whether the worker puts questions to the suite's judge; else whoever has its outcomes does, see `Asker`."""

    def worker(self, before: Worker | None = None) -> Worker:
        """Loads what is needed, or takes it over from the worker of another job."""
        plan = self.plan if before is None else self.plan.taking_over(before.plan)
        return Worker(dataclasses.replace(self, plan=plan))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DrawnBatch:
    """A batch that has been drawn and not yet observed."""

    samples: Sequence[Sample]
    made: list[Generated | Failed]
    seconds: float
    """Seconds that drawing took."""


class _Stages:
    """What computes stages of a plan; a batch that raises is tried again one sample at a time."""

    def __init__(self, job: Job) -> None:
        self.plan = plan = job.plan
        self._suite, self._options, self._hard = plan.suite, plan.options, job.hard
        self._is_recorded = job.recorded
        # Cases since the last success.
        self._in_vain: dict[str, list[str]] = {"generate": [], "observe": [], "ask": []}

    @functools.cached_property
    def _recorded(self) -> RecordedImages:
        return RecordedImages(RunDirectory(self.plan.output))

    def _judged(self, batch: Sequence[Drawn], seen: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        found = _plain(self._suite.judge(batch, seen, self.plan.judge, self._options))
        for drawn, observation in zip(batch, found, strict=True):
            self._heed(drawn.sample, observation)
        return found

    def _each(
        self, stage: str, items: list[tuple[Sample, Item]], compute: Callable[[list[Item]], list[Result]]
    ) -> list[Result | Failed]:
        """`compute` of all items; where that raises, of each item by itself."""
        if not items:
            return []
        try:
            results: list[Result] = compute([item for _, item in items])
            assert len(results) == len(items), f"{stage}: {len(results)} results for {len(items)} samples"
        except UserError:
            raise
        except Exception as error:
            if len(items) > 1:
                return [one for item in items for one in self._each(stage, [item], compute)]
            return [self._failed(stage, items[0][0], error)]
        self._in_vain[stage] = []
        return list(results)

    def _failed(self, stage: str, sample: Sample, error: Exception) -> Failed:
        why = describe_error(error)
        if _has_damaged_image(sample):
            return Failed(stage=stage, error=why)
        if (sample.case.id, sample.index) in self._hard:
            return Failed(stage=stage, error=why, raised=True)
        cases = self._in_vain[stage]
        cases.append(sample.case.id)
        if self._is_hopeless(cases):
            raise UserError(f"{stage} failed on {len(cases)} samples in a row: {why}; {_RESUMES}") from error
        return Failed(stage=stage, error=why, raised=True)

    def _heed(self, sample: Sample, observation: dict[str, Any]) -> None:
        """Ends a run in which nobody answers about an image."""
        why, cases = self._suite.unanswered(observation), self._in_vain["ask"]
        if why is None:
            cases.clear()
            return
        cases.append(sample.case.id)
        if self._is_hopeless(cases):
            raise UserError(f"the judge did not answer about {len(cases)} images in a row: {why}; {_RESUMES}")

    def _is_hopeless(self, cases: list[str]) -> bool:
        every = [sample.case.id for sample in self.plan.samples]
        return len(cases) >= min(_HOPELESS, len(every)) and len(set(cases)) >= min(_CASES, len(set(every)))


class Worker(_Stages):
    """Draws and observes a batch."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        plan, self._asks = job.plan, job.asks
        _ = None if job.recorded else plan.generator
        _ = plan.tools, plan.instruments, plan.judge if job.asks else None

    def __call__(self, batch: Sequence[Sample], recorded: Generator | None = None) -> list[Outcome]:
        """One outcome per sample, in order.

        Args:
            batch: The samples.
            recorded: Has the images that were drawn before, where this process has no run directory.
        """
        return self.observe(self.draw(batch, recorded))

    @property
    def waits(self) -> bool:
        """Whether observing waits for an endpoint's answers, so that the next batch can be drawn meanwhile."""
        return not self._is_recorded and self._suite.concurrent_requests(self._options) > 0

    def draw(self, batch: Sequence[Sample], recorded: Generator | None = None) -> DrawnBatch:
        """The first half of a call."""
        self._source = recorded or (self._recorded if self._is_recorded else self.plan.generator)
        start = time.perf_counter()
        drawn = self._each("generate", [(sample, sample) for sample in batch], self._draw)
        return DrawnBatch(samples=batch, made=drawn, seconds=time.perf_counter() - start)

    def observe(self, one: DrawnBatch) -> list[Outcome]:
        """The second half; may run in another thread than the first half of the next batch."""
        batch, drawn, between = one.samples, one.made, time.perf_counter()
        seen: list[dict[str, Any] | Failed] = [made if isinstance(made, Failed) else _failure(made) for made in drawn]
        good = []
        for i, made in enumerate(drawn):
            if isinstance(made, Generated) and made.image is not None:
                names = missing_classes(self._suite, batch[i].case, self.plan.tools)
                seen[i] = _unlabelled(names) if names else seen[i]
                good += [] if names else [i]
        found = self._each("observe", [(batch[i], (batch[i], drawn[i])) for i in good], self._observe)
        for i, observation in zip(good, found, strict=True):
            seen[i] = observation
        generate_s = None if self._is_recorded else one.seconds / len(batch)
        observe_s = (time.perf_counter() - between) / len(batch)
        outcomes = [self._outcome(*each) for each in zip(batch, drawn, seen, strict=True)]
        return [dataclasses.replace(one, generate_s=generate_s, observe_s=observe_s) for one in outcomes]

    def _draw(self, samples: list[Sample]) -> list[Generated]:
        made = self._source.generate(samples)
        return [one if one.image is None else dataclasses.replace(one, image=_rgb(one.image)) for one in made]

    def _observe(self, pairs: list[tuple[Sample, Any]]) -> list[dict[str, Any]]:
        batch = [Drawn(sample=sample, image=made.image, chain=made.chain) for sample, made in pairs]
        seen = _plain(self._suite.observe(batch, self.plan.instruments, self._options))
        return self._judged(batch, seen) if self._asks else seen

    def _outcome(self, sample: Sample, made: Generated | Failed, observation: dict[str, Any] | Failed) -> Outcome:
        if self._is_recorded and isinstance(observation, Failed):
            observation = dataclasses.replace(observation, stage="observe")
        if isinstance(made, Failed):
            return Outcome(sample=sample, png=None, chain=None, warnings=(), observation=observation)
        png = None if self._is_recorded or made.image is None else png_bytes(made.image)
        return Outcome(sample=sample, png=png, chain=made.chain, warnings=tuple(made.warnings), observation=observation)


class Asker(_Stages):
    """Puts questions about what workers have drawn and looked at: from one process, with one budget and one log."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        _ = self.plan.judge

    def __call__(self, outcomes: list[Outcome]) -> list[Outcome]:
        """The outcomes of a batch, with the judge's answers."""
        start = time.perf_counter()
        seen = [i for i, one in enumerate(outcomes) if not isinstance(one.observation, Failed)]
        found = self._each("observe", [(outcomes[i].sample, outcomes[i]) for i in seen], self._ask)
        seconds, answered = (time.perf_counter() - start) / len(outcomes), list(outcomes)
        for i, observation in zip(seen, found, strict=True):
            answered[i] = dataclasses.replace(outcomes[i], observation=observation)
        return [dataclasses.replace(one, observe_s=one.observe_s + seconds) for one in answered]

    def _ask(self, outcomes: list[Outcome]) -> list[dict[str, Any]]:
        return self._judged([self._drawn(one) for one in outcomes], [one.observation for one in outcomes])  # type: ignore[misc]

    def _drawn(self, one: Outcome) -> Drawn:
        if one.png is None:
            made = self._recorded.read(one.sample).opened()
        else:
            made = Generated(image=open_image(one.png, "an image", max_aspect=math.inf), chain=one.chain)
        assert made.image is not None, "it was looked at"
        return Drawn(sample=one.sample, image=_rgb(made.image), chain=made.chain)


def _has_damaged_image(sample: Sample) -> bool:
    """Whether an image that comes with the sample's edit cannot be read: no later try will read it."""
    edit = sample.case.edit
    if edit is None:
        return False
    try:
        for image in (edit.source, edit.target):
            if image is not None:
                image.load()
        if edit.mask is not None:
            edit.mask.load_mask()
    except ValueError:
        return True
    return False


def _plain(observations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """As the log will hold them: plain JSON, and no NaN."""
    return [json.loads(json.dumps(observation, allow_nan=False)) for observation in observations]


def _rgb(image: Image.Image) -> Image.Image:
    return as_rgb(image, "the image", max_aspect=math.inf)


def _unlabelled(names: tuple[str, ...]) -> Failed:
    words = f"the detector has no label for '{', '.join(names)}'"  # the quotes mark what differs between samples
    return Failed(stage="observe", error=words, missing_classes=names)


def _failure(made: Generated) -> Failed:
    return Failed(stage="generate", error=made.error or "no image and no reason given")
