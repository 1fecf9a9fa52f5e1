"""Named recipes: every number of a training that decides what is learned. No torch.

The paper's two phases are `got-6b-pretrain` and `got-6b-finetune` (GoT paper, section 5.3 and appendix). What the paper
does not say is marked as ours.
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


Kept = tuple[bool, bool, bool]
"""Which of (semantic, spatial, reference) a sample keeps, as the branches of `got.model.ssgm`."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a pipeline is trained."""

    steps: int
    """Updates of the weights."""
    warmup_steps: int
    """Updates in which the learning rate rises linearly; a cosine to zero follows."""
    learning_rate: float
    batch: int
    """Examples per update, over all processes and passes."""
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    clip_norm: float
    """The gradient is shortened to this norm; 0 leaves it as it is."""
    chains: bool
    """Whether chains are learned and read; else image tokens follow the prompt at once, as in the paper's baseline."""
    layout: bool
    """Whether the UNet gets the chain's boxes; without, spatial guidance is off in the pipeline that comes of it."""
    text_weight: float
    """Weight of the chain's cross-entropy, mean over tokens, in nats."""
    noise_weight: float
    """Weight of the denoising error, mean over images and latent numbers."""
    noise_offset: float
    """Spread of a constant that is added to each latent channel's noise; lets a model learn very dark and bright."""
    drop_layout: float
    """Share of the samples that lose the layout."""
    drop_layout_and_tokens: float
    """Share that lose layout and image tokens."""
    drop_all: float
    """Share that lose the source image as well."""
    lora_rank: int
    """Rank of the language model's LoRA; alpha is the same number. 0 trains the whole language model."""
    lora_dropout: float
    ema_decay: float
    """Decay of the averaged weights, which are exported; 0 makes them the trained ones.

    It is reached slowly: behind update n it is 1 - (1 + n)^-0.75 at most, for the first weights not to linger."""
    precision: str
    """Of matrix products: ``"no"`` (float32) or ``"bf16"``. Trained weights and the optimizer stay in float32."""
    gradient_checkpointing: bool
    """Whether activations are computed twice instead of kept."""
    most_tokens: int
    """Longer examples are left out, and counted."""
    most_pictures: int
    """Of a longer conversation only so many images, drawn by lot, go through the UNet; all of its chains are read."""

    @property
    def drops(self) -> tuple[tuple[Kept, float], ...]:
        """Combinations of conditions that samples lose, and the share of the samples; the others keep all three."""
        return (
            ((True, False, True), self.drop_layout),
            ((False, False, True), self.drop_layout_and_tokens),
            ((False, False, False), self.drop_all),
        )

    def problems(self) -> list[str]:
        """What is wrong with the numbers, in words; empty if nothing is.

        >>> dataclasses.replace(RECIPES["mini"], batch=0).problems()
        ['expected batch to be at least 1 but got 0']
        """
        least = {"steps": 1, "warmup_steps": 0, "batch": 1, "lora_rank": 0, "most_tokens": 1, "most_pictures": 1}
        found = [
            f"expected {name} to be at least {limit} but got {getattr(self, name)}"
            for name, limit in least.items()
            if getattr(self, name) < limit
        ]
        numbers = [f for f in dataclasses.fields(self) if isinstance(getattr(self, f.name), float)]
        found += [
            f"expected {f.name} to be a finite number of at least 0 but got {getattr(self, f.name)}"
            for f in numbers
            if not math.isfinite(getattr(self, f.name)) or getattr(self, f.name) < 0
        ]
        if (dropped := sum(share for _, share in self.drops)) > 1:
            found.append(
                f"expected drop_layout, drop_layout_and_tokens, drop_all to be at most 1 in all but got {dropped}"
            )
        if self.ema_decay >= 1:
            found.append(f"expected ema_decay to be below 1 but got {self.ema_decay}")
        if self.precision not in ("no", "bf16"):
            found.append(f"expected precision to be no or bf16 but got {self.precision!r}")
        return found


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What is trained on what, and where it goes."""

    recipe: Recipe
    model: str
    """Pipeline to start from: ``"mini"``, a folder or a hub id."""
    sources: tuple[Source, ...]
    output: Path
    seed: int
    micro: int | None
    """Examples per process and pass; None takes all of a process's at once."""
    device: str | None
    """``"cpu"`` keeps a GPU out of it; None takes what there is."""
    workers: int
    """Processes that open images ahead, for each training process."""
    log_every: int
    save_every: int
    keep: int
    """Checkpoints that stay."""
    look_every: int
    """Steps between looks at the held-out examples; 0 for none."""
    held_out: str | None
    """Dataset of examples that are only looked at; None takes the first ones of the training data."""
    samples: int
    """How many are looked at."""
    tracker: str | None
    """A tracker of accelerate's, such as ``"tensorboard"``, beside the log file."""

    @property
    def identity(self) -> dict[str, Any]:
        """What must not change when a training goes on."""
        return {
            "recipe": json.loads(json.dumps(dataclasses.asdict(self.recipe))),
            "model": self.model,
            "data": [dataclasses.asdict(source) for source in self.sources],
            "seed": self.seed,
        }


PRETRAIN = Recipe(
    steps=60_000,
    warmup_steps=500,
    learning_rate=1e-4,
    batch=128,
    beta1=0.9,
    beta2=0.98,
    epsilon=1e-6,
    weight_decay=0.05,
    clip_norm=1.0,  # ours
    chains=True,
    layout=True,
    text_weight=1.0,
    noise_weight=1.0,
    noise_offset=0.1,
    # The paper says 5 % on combinations of conditions; these are the combinations that its guidance needs.
    drop_layout=0.05,
    drop_layout_and_tokens=0.05,
    drop_all=0.05,
    lora_rank=32,
    lora_dropout=0.05,
    ema_decay=0.9997,  # ours; reached behind 50,000 updates
    precision="bf16",  # ours
    gradient_checkpointing=True,  # ours
    most_tokens=2048,  # ours
    most_pictures=2,  # ours
)

RECIPES = {
    "got-6b-pretrain": PRETRAIN,
    "got-6b-finetune": dataclasses.replace(
        PRETRAIN,
        steps=10_000,
        warmup_steps=200,
        learning_rate=5e-5,
        ema_decay=0.999,  # ours; reached at the end
    ),
    # The same method at a size for two cores. A language model this small is trained whole.
    "mini": dataclasses.replace(
        PRETRAIN,
        steps=2_000,
        warmup_steps=50,
        batch=32,
        noise_offset=0.0,  # the embedded UNet was trained without
        lora_rank=0,
        lora_dropout=0.0,
        ema_decay=0.99,
        precision="no",
        gradient_checkpointing=False,
        most_tokens=1024,
        most_pictures=4,
    ),
}
"""The recipes by name."""


def changed(recipe: Recipe, assignments: Iterable[str]) -> Recipe:
    """A recipe with other numbers, given as ``name=value``.

    Raises:
        ValueError: If there is no such name, or the value does not fit.

    >>> changed(RECIPES["mini"], ["steps=20", "learning_rate=1e-3"]).steps
    20
    >>> changed(RECIPES["mini"], ["speed=9"])
    Traceback (most recent call last):
    ValueError: Expected one of steps, warmup_steps, ..., most_pictures but got 'speed'
    """
    known = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe)}
    values: dict[str, object] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if name not in known or not equals:
            raise ValueError(f"Expected one of {', '.join(known)} but got {name!r}")
        values[name] = _read(name, text, type(known[name]))
    result = dataclasses.replace(recipe, **values)  # type: ignore[arg-type]
    if problems := result.problems():
        raise ValueError(f"The recipe cannot be used: {'; '.join(problems)}")
    return result


def _read(name: str, text: str, kind: type) -> object:
    if kind is bool:
        if text not in ("true", "false"):
            raise ValueError(f"Expected {name} to be true or false but got {text!r}")
        return text == "true"
    try:
        return kind(text)
    except ValueError as error:
        what = "a whole number" if kind is int else "a number"
        raise ValueError(f"Expected {name} to be {what} but got {text!r}") from error


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A dataset and how often it is drawn from, relative to the others."""

    place: str
    weight: float

    @classmethod
    def parse(cls, text: str) -> Source:
        """Read ``PLACE`` or ``PLACE:WEIGHT``.

        Raises:
            ValueError: If the weight is not positive.

        >>> Source.parse("data/edits:0.5"), Source.parse("data")
        (Source(place='data/edits', weight=0.5), Source(place='data', weight=1.0))
        """
        place, colon, number = text.rpartition(":")
        try:
            source = cls(place=place, weight=float(number)) if colon else cls(place=text, weight=1.0)
        except ValueError:  # the colon belongs to the place
            source = cls(place=text, weight=1.0)
        if not source.place or not 0 < source.weight < float("inf"):
            raise ValueError(f"Expected PLACE or PLACE:WEIGHT with a positive weight but got {text!r}")
        return source
