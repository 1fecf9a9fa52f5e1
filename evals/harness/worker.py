"""What computes a batch: draws its samples, observes the images, and never lets one bad sample take others with it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import time
from typing import TYPE_CHECKING, Any, TypeVar

from evals.core.records import Drawn, Generated, UserError
from evals.core.run_directory import RunDirectory, key_of
from evals.harness.outcomes import Failed, Outcome
from evals.harness.plan import missing_classes
from got.util.errors import described
from got.util.garbage import loading
from got.util.images import as_rgb, open_image, png_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL import Image

    from evals.core.backends import Generator
    from evals.core.records import Sample
    from evals.harness.plan import Plan

Item = TypeVar("Item")
Result = TypeVar("Result")


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
    asks: bool = True
    """Whether the worker puts questions to the suite's judge; else whoever has its outcomes does, see `Asker`."""
    hands_on: bool = False
    """Whether it asks its own model beforehand, and its outcomes bring the replies for that `Asker`."""

    def worker(self, before: Worker | None = None) -> Worker:
        """Loads what is needed, or takes it over from the worker of another job."""
        plan = self.plan if before is None else self.plan.taking_over(before.plan)
        return Worker(dataclasses.replace(self, plan=plan))


class _Stages:
    """What computes stages of a plan; a batch that raises is tried again one sample at a time."""

    def __init__(self, job: Job) -> None:
        self.plan = plan = job.plan
        self._suite, self._options = plan.suite, plan.options
        self._is_recorded = job.recorded

    @functools.cached_property
    def _recorded(self) -> RecordedImages:
        return RecordedImages(RunDirectory(self.plan.output))

    def _judged(self, judge: Any, batch: Sequence[Drawn], seen: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return _plain(self._suite.judge(batch, seen, judge, self._options))

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
            damaged = _has_damaged_image(items[0][0])
            return [Failed(stage=stage, error=described(error), raised=not damaged, damaged=damaged)]
        return list(results)


class Worker(_Stages):
    """Draws and observes a batch."""

    @loading()
    def __init__(self, job: Job) -> None:
        super().__init__(job)
        plan = job.plan
        _ = None if job.recorded else plan.generator
        _ = plan.tools, plan.instruments
        self._asks, self._handing = job.asks, plan.handing_judge if job.hands_on else None
        self._judge = plan.judge if job.asks else self._handing.judge if self._handing else None

    def __call__(self, batch: Sequence[Sample], recorded: Generator | None = None) -> list[Outcome]:
        """One outcome per sample, in order.

        Args:
            batch: The samples.
            recorded: Has the images that were drawn before, where this process has no run directory.
        """
        start = time.perf_counter()
        drawn = self.draw(batch, recorded)
        between = time.perf_counter()
        seen = self._look_at(batch, drawn)
        generate_s = None if self._is_recorded else (between - start) / len(batch)
        observe_s = (time.perf_counter() - between) / len(batch)
        outcomes = [self._outcome(*each) for each in zip(batch, drawn, seen, strict=True)]
        outcomes = [dataclasses.replace(one, generate_s=generate_s, observe_s=observe_s) for one in outcomes]
        said = self._handing.taken() if self._handing else ()
        return [dataclasses.replace(outcomes[0], replies=said), *outcomes[1:]]

    def draw(self, batch: Sequence[Sample], recorded: Generator | None = None) -> list[Generated | Failed]:
        """The first half of a call."""
        self._source = recorded or (self._recorded if self._is_recorded else self.plan.generator)
        return self._each("generate", [(sample, sample) for sample in batch], self._draw)

    def _look_at(
        self, batch: Sequence[Sample], drawn: Sequence[Generated | Failed]
    ) -> Sequence[dict[str, Any] | Failed]:
        """The second half."""
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
        return seen

    def _draw(self, samples: list[Sample]) -> list[Generated]:
        made = self._source.generate(samples)
        return [one if one.image is None else dataclasses.replace(one, image=_rgb(one.image)) for one in made]

    def _observe(self, pairs: list[tuple[Sample, Any]]) -> list[dict[str, Any]]:
        batch = [Drawn(sample=sample, image=made.image, chain=made.chain) for sample, made in pairs]
        seen = _plain(self._suite.observe(batch, self.plan.instruments, self._options))
        judged = seen if self._judge is None else self._judged(self._judge, batch, seen)
        return judged if self._asks else seen

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
        self._hearing = job.plan.hearing_judge if job.hands_on else None
        self._judge = job.plan.judge if self._hearing is None else self._hearing.judge

    def __call__(self, batches: list[list[Outcome]]) -> list[list[Outcome]]:
        """The outcomes of batches, with the judge's answers."""
        start, outcomes = time.perf_counter(), [one for batch in batches for one in batch]
        if self._hearing is not None:
            self._hearing.hear(said for one in outcomes for said in one.replies)
        seen = [i for i, one in enumerate(outcomes) if not isinstance(one.observation, Failed)]
        found = self._each("observe", [(outcomes[i].sample, outcomes[i]) for i in seen], self._ask)
        seconds = (time.perf_counter() - start) / len(outcomes)
        for i, observation in zip(seen, found, strict=True):
            outcomes[i] = dataclasses.replace(outcomes[i], observation=observation)
        answered = iter([dataclasses.replace(one, observe_s=one.observe_s + seconds, replies=()) for one in outcomes])
        return [list(itertools.islice(answered, len(batch))) for batch in batches]

    def _ask(self, outcomes: list[Outcome]) -> list[dict[str, Any]]:
        drawn, seen = [self._drawn(one) for one in outcomes], [one.observation for one in outcomes]
        return self._judged(self._judge, drawn, seen)  # type: ignore[arg-type]

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
