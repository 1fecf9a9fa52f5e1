"""A pipeline and data sets of the smallest size, saved to disk, for the tests of the trainer."""

import dataclasses
import io
import os
import sys
from pathlib import Path

import got_kit

from got.data.records import Example, Provenance, Step
from got.data.storage import Writer
from got.finetune.feed import Collator
from got.finetune.recipes import RECIPES
from got.iconworld.scenes import stable_rng
from got.plan.chain import Chain
from got.plan.layout import draw_overview

ROOT = Path(__file__).resolve().parents[2]
RECIPE = dataclasses.replace(RECIPES["mini"], batch=4, warmup_steps=2, most_tokens=400, most_pictures=2)
LORA = dataclasses.replace(RECIPE, lora_rank=4)
MINE = Provenance(dataset="test", license="CC0-1.0")
NAMES = ("a red apple", "a blue dog", "a computer mouse", "a red dog")


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def scene(number, objects=1):
    """A caption, its chain and an image of 32 px whose boxes have the chain's colours."""
    rng = stable_rng("finetune test", number)
    parts = []
    for index in range(objects):
        x, y = rng.integers(0, 500, 2).tolist()
        name = NAMES[int(rng.integers(len(NAMES)))]
        parts.append(f"{name} <|box_start|>({x},{y}),({x + 400},{y + 400})<|box_end|> ({('red', 'green')[index]})")
    chain = "a photo of " + " and ".join(parts)
    caption = "a photo of " + " and ".join(region.text for region in Chain.parse(chain).regions)
    return caption, chain, draw_overview(Chain.parse(chain), 32, 32)


def example(number, task):
    """One example of a task; a multi-turn edit has three steps."""
    caption, chain, image = scene(number)
    if task == "text-to-image":
        return Example(id=f"t{number}", prompt=caption, steps=(Step(chain=chain, target=png(image)),), provenance=MINE)
    scenes = [scene(1000 + 10 * number + step) for step in range(1 if task == "edit" else 3)]
    return Example(
        id=f"{task[0]}{number}",
        prompt=scenes[-1][0],
        source=png(image),
        steps=tuple(Step(chain=chain, target=png(image), instruction=caption) for caption, chain, image in scenes),
        provenance=MINE,
    )


def examples(*, drawings=0, edits=0, conversations=0):
    found = [example(number, "text-to-image") for number in range(drawings)]
    found += [example(number, "edit") for number in range(edits)]
    return found + [example(number, "multi-turn") for number in range(conversations)]


def dataset(folder, **counts):
    """Write a data set; gives its place as a word of a command line."""
    with Writer(folder) as writer:
        for one in examples(**counts):
            writer.add(one)
    return str(folder)


def saved_pipeline(folder):
    """One that writes short chains: what it is taught here is not to end them."""
    pipeline = got_kit.make_pipeline()
    pipeline.mllm.generation_config.max_new_tokens = 8
    pipeline.save_pretrained(folder)
    return str(folder)


def collator(pipeline, recipe=RECIPE, seed=0):
    return Collator.of(pipeline, recipe, seed)


def batch(pipeline, found, recipe=RECIPE, seed=0):
    """A batch of examples."""
    made = collator(pipeline, recipe, seed)
    return made.batch([made.prepare(number, one) for number, one in enumerate(found)])


def environment():
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def command(*arguments, launcher=()):
    return [sys.executable, *launcher, "-m", "got.finetune", "--device", "cpu", *map(str, arguments)]
