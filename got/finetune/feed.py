"""From datasets to batches, in an order that is fixed by a seed and by nothing else.

Sample n of a training is the same example with the same noise however many processes, passes and workers there are, and
whether the training was interrupted or not. So every process reads the whole stream, but opens only its own images.
"""

from __future__ import annotations

import dataclasses
import signal
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from got.data.records import TASKS, DataError, Example
from got.data.storage import count, read
from got.finetune.recipes import Source
from got.iconworld.scenes import stable_rng
from got.model.reasoner import check_chain
from got.model.teacher_forcing import Conversation, TrainingBatch, encode_conversations, sequence
from got.model.tokenizer import ImageInput
from got.plan.chain import Chain
from got.util.images import open_image

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedTokenizerBase, Qwen2VLImageProcessor

    from got.finetune.recipes import Recipe
    from got.pipeline import GoTPipeline


BLOCK = 1000
"""Samples in which the shares of the datasets are exact."""
_MOST_BAD = 1000  # so many unusable examples in a row end a training


def quotas(weights: Sequence[float], total: int = BLOCK) -> list[int]:
    """Whole numbers in the proportion of the weights that add up to the total (largest remainders).

    Raises:
        ValueError: If a weight is too small to be drawn at all.

    >>> quotas([2, 1], 10), quotas([3.77, 4.09, 0.737])
    ([7, 3], [438, 476, 86])
    """
    exact = np.array(weights) * total / np.sum(weights)
    counts = np.floor(exact).astype(int)
    for index in np.argsort(counts - exact, kind="stable")[: total - counts.sum()]:
        counts[index] += 1
    if counts.min() < 1:
        raise ValueError(f"Expected every weight to be at least {1 / total:g} of the sum but got {list(weights)}")
    return counts.tolist()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """An endless stream of examples from several datasets."""

    sources: tuple[Source, ...]
    seed: int

    def check(self) -> None:
        """Look whether there is something to draw from.

        Raises:
            DataError: If a dataset is empty, damaged or not there.
            ValueError: If a weight is too small to be drawn at all.
        """
        quotas([source.weight for source in self.sources])
        for source in self.sources:
            if not count(source.place):
                raise DataError(f"{source.place}: expected at least one example")

    def order(self, block: int) -> np.ndarray:
        """Which dataset each sample of a block is from, (BLOCK,)."""
        shares = quotas([source.weight for source in self.sources])
        drawn = np.repeat(np.arange(len(shares)), shares)
        return stable_rng("mixture", self.seed, block).permutation(drawn)

    def positions(self, sample: int) -> list[int]:
        """How many examples of each dataset come before a sample."""
        block, rest = divmod(sample, BLOCK)
        before = np.bincount(self.order(block)[:rest], minlength=len(self.sources))
        shares = quotas([source.weight for source in self.sources])
        return [block * share + int(more) for share, more in zip(shares, before, strict=True)]

    def examples(self, sample: int = 0) -> Iterator[tuple[int, Example]]:
        """Samples from one on, without end, each with its number.

        Raises:
            DataError: If a dataset is empty or damaged.
        """
        streams = [
            _endless(source.place, position, self.seed)
            for source, position in zip(self.sources, self.positions(sample), strict=True)
        ]
        while True:
            block, rest = divmod(sample, BLOCK)
            for which in self.order(block)[rest:].tolist():
                yield sample, next(streams[which])
                sample += 1


def _endless(place: str, position: int, seed: int) -> Iterator[Example]:
    """A dataset again and again, shuffled anew each time, from a position on."""
    epoch, start = divmod(position, count(place))
    while True:
        yield from read(place, shuffle_seed=seed, epoch=epoch, start=start)
        epoch, start = epoch + 1, 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Some examples, ready for the networks. Lists have one entry per image that is drawn."""

    sequences: TrainingBatch
    """Whole conversations."""
    blank: tuple[torch.Tensor, torch.Tensor] | None
    """Patches and grid of a black image, where no conversation has one: the vision tower always takes part, so that
    all processes have gradients of the same weights."""
    drawn: torch.Tensor
    """Which of the sequences' images are drawn, int64 (images,)."""
    targets: list[Image.Image]
    references: list[Image.Image | None]
    """What each image starts from; None for text-to-image."""
    chains: list[Chain]
    keys: list[tuple[int, int]]
    """Number of the sample and of its step: what all randomness of an image depends on."""
    row_tasks: torch.Tensor
    """Index into `TASKS` of each conversation, int64 (rows,)."""
    skipped: list[str]
    """Examples that could not be used, and why."""


class Unusable(ValueError):
    """An example cannot be trained on."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """One example with its images opened."""

    sample: int
    example: Example
    conversation: Conversation
    images: tuple[Image.Image, ...]
    """Source (if there is one) and targets, in the size that is drawn."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Collator:
    """Opens examples and puts them together. It has no weights, so worker processes can have it."""

    tokenizer: PreTrainedTokenizerBase
    image_processor: Qwen2VLImageProcessor | None
    size_px: tuple[int, int]
    """Width and height of what is drawn; every image is squashed to it, as in sampling."""
    vision_image_px: int
    recipe: Recipe
    seed: int

    @classmethod
    def of(cls, pipeline: GoTPipeline, recipe: Recipe, seed: int) -> Collator:
        """A collator for a pipeline's own sizes."""
        return cls(
            tokenizer=pipeline.tokenizer,
            image_processor=pipeline.image_processor,
            size_px=pipeline.size_px(),
            vision_image_px=pipeline.got_config.vision_image_px,
            recipe=recipe,
            seed=seed,
        )

    def prepare(self, sample: int, example: Example) -> Prepared:
        """Open an example's images.

        Raises:
            Unusable: If one cannot be read, or the texts are none.
        """
        try:
            if not example.steps or not example.prompt.strip() or not all(text.strip() for text in example.chains):
                raise Unusable("a prompt or a chain is missing")
            for chain in example.chains:
                check_chain(self.tokenizer, chain)
            opened = [open_image(image, name if isinstance(image, bytes) else "") for name, image in example.images()]
            shown = opened[:-1] if example.source is not None else []
            side = (self.vision_image_px, self.vision_image_px)
            conversation = Conversation(
                prompt=example.prompt,
                chains=example.chains if self.recipe.chains else ("",) * len(example.steps),
                images=tuple(np.array(one.resize(side, Image.Resampling.BICUBIC)) for one in shown),
            )
            if shown and self.image_processor is None:
                raise Unusable("an edit, and the pipeline has no image processor")
            pads = ImageInput(processor=self.image_processor, side_px=self.vision_image_px).pads if shown else 0
            length = len(sequence(self.tokenizer, conversation, pads)[0])
        except (ValueError, OSError) as error:
            raise Unusable(f"{example.id}: {error}") from error
        if length > self.recipe.most_tokens:
            raise Unusable(f"{example.id}: expected at most {self.recipe.most_tokens} tokens but got {length}")
        images = tuple(one.resize(self.size_px, Image.Resampling.BICUBIC) for one in opened)
        return Prepared(sample=sample, example=example, conversation=conversation, images=images)

    def batch(self, prepared: Sequence[Prepared], skipped: Sequence[str] = ()) -> Batch:
        """Put examples together."""
        sequences = encode_conversations(self.tokenizer, [one.conversation for one in prepared], self.image_processor)
        drawn, targets, references, chains, keys = [], [], [], [], []
        first = 0
        for one in prepared:
            edit = one.example.source is not None
            for step in self._lot(one):
                drawn.append(first + step)
                targets.append(one.images[step + edit])
                references.append(one.images[step] if edit else None)
                chains.append(Chain.parse(one.example.chains[step]))
                keys.append((one.sample, step))
            first += len(one.example.steps)
        return Batch(
            sequences=sequences,
            blank=self._blank() if sequences.pixel_values is None else None,
            drawn=torch.tensor(drawn),
            targets=targets,
            references=references,
            chains=chains,
            keys=keys,
            row_tasks=torch.tensor([TASKS.index(one.example.task) for one in prepared]),
            skipped=list(skipped),
        )

    def _lot(self, one: Prepared) -> list[int]:
        """Which steps of an example go through the UNet."""
        count = len(one.example.steps)
        if count <= self.recipe.most_pictures:
            return list(range(count))
        rng = stable_rng("steps", self.seed, one.sample)
        return sorted(rng.choice(count, self.recipe.most_pictures, replace=False).tolist())

    def _blank(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        if self.image_processor is None:
            return None
        black = np.zeros((self.vision_image_px, self.vision_image_px, 3), np.uint8)
        patches = self.image_processor(images=[black], return_tensors="pt")
        return patches["pixel_values"], patches["image_grid_thw"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Which part of every update's samples one process takes."""

    batch: int
    """Examples per update, in all."""
    micro: int
    """Examples per process and pass."""
    rank: int
    processes: int

    @property
    def passes(self) -> int:
        """Passes per update.

        Raises:
            ValueError: If the batch cannot be divided so.
        """
        per_pass = self.micro * self.processes
        if self.batch % per_pass:
            raise ValueError(
                f"Expected a batch that {self.processes} processes with {self.micro} examples each divide, "
                f"but got {self.batch}"
            )
        return self.batch // per_pass


class Feed(IterableDataset[Batch]):
    """The batches of one process from a step on, without end.

    An example that cannot be used is left out of its batch. Should a batch lose all of its examples, the next usable
    one of the stream stands in.
    """

    def __init__(self, mixture: Mixture, collator: Collator, share: Share, first_step: int = 0) -> None:
        self.mixture = mixture
        self.collator = collator
        self.share = share
        self.first_step = first_step

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        share, first = self.share, self.first_step * self.share.batch
        ready: list[Prepared] = []
        skipped: list[str] = []
        owed = bad = 0
        for sample, example in self.mixture.examples(first):
            # Passes follow each other without a gap, because they divide the batch.
            turn, slot = divmod(sample - first, share.micro * share.processes)
            mine = slot // share.micro == share.rank and turn % workers == number
            if mine or owed:
                try:
                    prepared = self.collator.prepare(sample, example)
                except Unusable as error:
                    if mine:  # else it is on its own process's or worker's list
                        skipped.append(str(error))
                    bad += 1
                    if bad >= _MOST_BAD:
                        raise DataError(f"{bad} examples in a row cannot be used; the last: {error}") from error
                else:
                    bad = 0
                    for _ in range(owed):
                        yield self.collator.batch([prepared], skipped)
                        skipped = []
                    owed = 0
                    ready += [prepared] if mine else []
            if mine and slot % share.micro == share.micro - 1:
                if ready:
                    yield self.collator.batch(ready, skipped)
                    ready, skipped = [], []
                else:
                    owed += 1

    def loader(self, workers: int = 0) -> Iterator[Batch]:
        """The batches, made ahead by worker processes if there are any."""
        if not workers:
            return iter(DataLoader(self, batch_size=None))
        return iter(
            DataLoader(self, batch_size=None, num_workers=workers, prefetch_factor=2, worker_init_fn=_ignore_interrupts)
        )


def _ignore_interrupts(worker: int) -> None:
    """Makes a worker ignore Ctrl-C, because the update under way still needs its batches."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
