"""Images -> chains, as the paper does it: a vision-language model looks, names, points, and puts it into words.

- Text-to-image: describe the image (and write a prompt, if there is none), extract the names of objects from the
  description word for word, ground each (a box, or none), and merge the boxes into the description. That is the chain.
- Edit: describe source and target, parse from the instruction what is changed (by task: add, remove, swap, attribute,
  environment, style), ground it, describe the crop around it, and compose the chain: what there is, what is done
  where, what there will be then.
- Multi-turn edit: the same for every step. Only the first chain opens with the source, and only the last one closes
  with the target: read together they are the composed chain of the whole.

What differs from the paper: one question grounds all objects of an image, so that two of one name get two boxes; the
model that composes writes marks, and the boxes are put in their place here, so that no number passes through it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from typing import TYPE_CHECKING, Any

from got.data.annotate.boxes import Shown, cropped, frame_in_words, merged, shown
from got.data.annotate.prompts import StageFailed, ask, prompt, prompts_hash
from got.data.annotate.replies import boxes_of, chain_of, parsed, phrase_of, places_of, words_of
from got.plan.chain import MASK_COLORS
from got.util.images import ImageError, open_image
from got.vlm.messages import Encoding

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL import Image

    from got.data.annotate.replies import Parsed
    from got.data.records import Example
    from got.plan.chain import Box1000
    from got.vlm.asker import Asker

MAX_PIXELS = 1280 * 28 * 28
_KIND_WORDS = {
    "add": "add", "remov": "remove", "delet": "remove", "swap": "swap", "replac": "swap", "attribut": "attribute",
    "recolor": "attribute", "color": "attribute", "colour": "attribute", "env": "environment",
    "background": "environment", "weather": "environment", "style": "style",
}  # fmt: skip
"""How the names begin that data sets give to the tasks."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How images go to the model, and how its boxes come back."""

    convention: str = "pixels"
    """What the numbers of its boxes mean, one of `got.data.annotate.boxes.CONVENTIONS`."""
    max_pixels: int = MAX_PIXELS
    """Larger images are scaled down before they are sent."""
    encoding: Encoding = dataclasses.field(default_factory=Encoding)
    """The files in which they are sent."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Located:
    """An object that a chain names, and where it is."""

    image: Image.Image
    name: str
    box_1000: Box1000 | None
    """None if the model says that the image does not show it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An example with its new chains, and what quality control has to know of it."""

    example: Example
    located: tuple[Located, ...]
    named: tuple[tuple[str, str], ...]
    """Names that have to occur in a chain, each with that chain."""


class Annotator:
    """Writes chains for examples, whatever chains they have."""

    def __init__(self, asker: Asker, view: View) -> None:
        self._asker, self._view = asker, view
        self._made_by = f"{asker.backend.id}, prompts {prompts_hash()}"

    async def annotate(self, example: Example) -> Draft:
        """The example with chains.

        Raises:
            StageFailed: If that is not possible; nothing is guessed.
            SetupError: If the model cannot be asked at all.
        """
        sample = _Sample(self._asker, self._view, example.id)
        draft = await (_from_text(sample, example) if example.source is None else _edited(sample, example))
        made = dataclasses.replace(
            draft.example, provenance=dataclasses.replace(example.provenance, made_by=self._made_by)
        )
        for field, problem in made.problems():
            raise StageFailed("validate", "illegal example", f"{field}: {problem}")
        return dataclasses.replace(draft, example=made)


class _Sample:
    """The questions about one example."""

    def __init__(self, asker: Asker, view: View, id: str) -> None:
        self._asker, self._view, self._id = asker, view, id

    async def open(self, field: str, source: bytes | Path) -> tuple[Image.Image, Shown]:
        try:
            # Pillow lets go of the interpreter while it works, so the other samples go on.
            image = await asyncio.to_thread(open_image, source)
        except ImageError as error:
            raise StageFailed("open", "picture", f"{field}: {error}") from error
        return image, await asyncio.to_thread(self.show, image)

    def show(self, image: Image.Image) -> Shown:
        return shown(image, self._view.convention, self._view.max_pixels, self._view.encoding)

    async def ask(self, stage: str, images: Sequence[Shown], read: Any, **variables: Any) -> Any:
        words = prompt(stage, **variables)
        return await ask(self._asker, self._id, stage, words, [image.file for image in images], read)

    async def describe(self, image: Shown, caption: str = "", *, want_prompt: bool = False) -> tuple[str, str]:
        """Prompt (empty unless wanted) and description."""

        def read(reply: Any) -> tuple[str, str]:
            return words_of(reply, "prompt") if want_prompt else "", words_of(reply, "description")

        found: tuple[str, str] = await self.ask("describe", [image], read, caption=caption, want_prompt=want_prompt)
        return found

    async def extract(self, text: str) -> tuple[tuple[int, int], ...]:
        """Where the names of objects stand in a text."""
        read = functools.partial(places_of, text=text)
        found: tuple[tuple[int, int], ...] = await self.ask("extract", [], read, text=text, most=len(MASK_COLORS))
        return found

    async def ground(
        self, image: Shown, names: Sequence[str], context: str, *, required: bool
    ) -> tuple[Box1000 | None, ...]:
        """A box for each name."""
        if not names:
            return ()
        convention = self._view.convention
        read = functools.partial(
            boxes_of, count=len(names), convention=convention, size_px=image.size_px, required=required
        )
        frame = frame_in_words(convention, image.size_px)
        found: tuple[Box1000 | None, ...] = await self.ask(
            "ground", [image], read, names=names, context=context, frame=frame
        )
        return found


# -------------------------------------------------------------------------------------------------------- text to image
async def _from_text(sample: _Sample, example: Example) -> Draft:
    (step,) = example.steps
    image, view = await sample.open("target", step.target)
    written, description = await sample.describe(view, example.prompt, want_prompt=not example.prompt.strip())
    request = example.prompt if example.prompt.strip() else written
    places = await sample.extract(description)
    names = [description[slice(*place)] for place in places]
    boxes = await sample.ground(view, names, description, required=False)
    chain = merged(description, [(end, box) for (_, end), box in zip(places, boxes, strict=True)])
    named = [request[slice(*place)] for place in await sample.extract(request)]
    return Draft(
        example=dataclasses.replace(example, prompt=request, steps=(dataclasses.replace(step, chain=chain),)),
        located=tuple(Located(image=image, name=name, box_1000=box) for name, box in zip(names, boxes, strict=True)),
        named=tuple((name, chain) for name in named),
    )


# ---------------------------------------------------------------------------------------------------------------- edits
async def _edited(sample: _Sample, example: Example) -> Draft:
    instructions = [step.instruction.strip() for step in example.steps]
    if len(instructions) == 1:
        instructions = [instructions[0] or example.prompt.strip()]
    if not all(instructions):
        raise StageFailed("parse", "no instruction", f"step {instructions.index('')} says not what is to be done")
    assert example.source is not None, "only edits come here"
    before = await sample.open("source", example.source)
    steps, kinds, located, named = [], [], [], []
    for number, (step, instruction) in enumerate(zip(example.steps, instructions, strict=True)):
        after = await sample.open(f"steps[{number}].target", step.target)
        ends = number == 0, number == len(instructions) - 1
        kind = known_kind(example.extra) if len(instructions) == 1 else None
        change, objects, chain = await _step(sample, (before, after), instruction, kind, ends)
        steps.append(dataclasses.replace(step, chain=chain))
        located += objects
        named += [(name, chain) for name in (*change.before, *change.after)]
        kinds.append(change.kind)
        before = after
    whole = example.prompt if example.prompt.strip() else await _whole(sample, instructions)
    extra = {**example.extra, "annotated_kinds": kinds}
    made = dataclasses.replace(example, prompt=whole, steps=tuple(steps), extra=extra)
    return Draft(example=made, located=tuple(located), named=tuple(named))


async def _whole(sample: _Sample, instructions: Sequence[str]) -> str:
    whole: str = instructions[0]
    if len(instructions) > 1:
        read = functools.partial(words_of, key="instruction")
        whole = await sample.ask("instruction", [], read, steps=instructions)
    return whole


async def _step(
    sample: _Sample,
    images: tuple[tuple[Image.Image, Shown], tuple[Image.Image, Shown]],
    instruction: str,
    kind: str | None,
    ends: tuple[bool, bool],
) -> tuple[Parsed, list[Located], str]:
    """What one edit changes, with its chain; `ends`: whether that begins with the source, ends with the target."""
    texts = [(await sample.describe(image))[1] for _, image in images]
    about = {"instruction": instruction, "before": texts[0], "after": texts[1]}
    change: Parsed = await sample.ask("parse", [], functools.partial(parsed, kind=kind), kind=kind, **about)
    located: list[Located] = []
    places: list[Box1000] = []
    objects = []
    for side, (image, view), text, names in zip(
        ("before", "after"), images, texts, (change.before, change.after), strict=True
    ):
        boxes = await sample.ground(view, names, text, required=True)
        for name, box in zip(names, boxes, strict=True):
            assert box is not None, "required"
            phrase = await sample.ask("crop", [sample.show(cropped(image, box))], phrase_of, name=name)
            located.append(Located(image=image, name=name, box_1000=box))
            places.append(box)
            objects.append({"phrase": phrase, "side": side})
    chain: str = await sample.ask(
        "compose", [], functools.partial(chain_of, boxes=places),
        kind=change.kind, objects=objects, opening=ends[0], closing=ends[1], **about,
    )  # fmt: skip
    return change, located, chain


def known_kind(extra: Any) -> str | None:
    """The task of an edit, where the data set says it under ``task``, ``kind`` or ``edit_type`` in words we know.

    >>> known_kind({"task": "object_swap"}), known_kind({"kind": "Addition"}), known_kind({"task": "7"})
    ('swap', 'add', None)
    """
    for key in ("task", "kind", "edit_type"):
        value = extra.get(key)
        words = value.lower().replace("_", " ").split() if isinstance(value, str) else []
        found = {kind for word in words for start, kind in _KIND_WORDS.items() if word.startswith(start)}
        if len(found) == 1:
            return found.pop()
    return None
