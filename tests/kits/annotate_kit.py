"""A vision-language model that knows the icon world's truth, behind a real endpoint: it knows a scene by its pixels."""

import base64
import collections
import hashlib
import io
import json
import re

import numpy as np
from judge_kit import says
from PIL import Image

from got.data import storage
from got.data.annotate import command
from got.data.annotate.boxes import shown
from got.data.records import Example, Provenance, Step
from got.iconworld import CLASSES, COLORS, parse_phrase, render, sample_edit, sample_scene
from got.iconworld.edits import chained
from got.iconworld.vocabulary import with_article
from got.util.cli import Parser

SIZE = 96
FAST = ("--boxes", "unit")  # needs no torch
PROVENANCE = Provenance(dataset="icons", license="Apache-2.0", origin="seed")
TASKS = {"add": "add", "remove": "remove", "replace": "swap", "recolor": "attribute", "background": "environment"}
_OPENINGS = {
    "You describe pictures": "describe",
    "Below is a text": "extract",
    "Find objects": "ground",
    "Look for one thing": "reground",
    "A picture was edited by following": "parse",
    "You see a part": "crop",
    "Write down how": "compose",
    "A picture was edited in several": "instruction",
}
_THING = re.compile(
    rf"\b(?:an?|the) (?:{'|'.join(COLORS)}) (?:{'|'.join(sorted(CLASSES, key=len, reverse=True))})\b", re.IGNORECASE
)


def png(scene):
    """A scene's image as a file."""
    buffer = io.BytesIO()
    Image.fromarray(render(scene, SIZE).image).save(buffer, "PNG")
    return buffer.getvalue()


def names_in(scene):
    return [with_article(f"{item.color} {item.name}") for item in scene.objects]


def description_of(scene):
    """Prose of some sentences; a scene's texture and seed make it that scene's alone."""
    where = [f"{name} at {item.box_1000[0]}, {item.box_1000[1]}" for name, item in
             zip(names_in(scene), scene.objects, strict=True)]  # fmt: skip
    shows = f"The picture shows {', '.join(where)}. " if where else "The picture shows nothing. "
    return f"{shows}The ground is {scene.ground_color or 'grey'} with {scene.background}."


def stage_of(request):
    text = next(part["text"] for part in request["messages"][0]["content"] if part["type"] == "text")
    return next(stage for opening, stage in _OPENINGS.items() if text.startswith(opening)), text


class Truth:
    """Answers requests rightly; what it is asked about it must have been told."""

    def __init__(self, convention="pixels", max_pixels=10**6):
        self.convention, self.max_pixels = convention, max_pixels
        self.scenes, self.edits, self.crops = {}, {}, []
        self.asked = collections.Counter()

    def knows(self, *scenes):
        for scene in scenes:
            image = Image.open(io.BytesIO(png(scene)))
            sent = shown(image, self.convention, self.max_pixels)
            self.scenes[hashlib.sha256(sent.file.data).hexdigest()] = scene

    def knows_edit(self, edit):
        self.knows(edit.source, edit.target)
        self.edits[edit.instruction, description_of(edit.source)] = edit

    def reply(self, request):
        """The JSON that a flawless model answers."""
        stage, text = stage_of(request)
        self.asked[stage] += 1
        urls = [part["image_url"]["url"] for part in request["messages"][0]["content"] if part["type"] == "image_url"]
        images = [base64.b64decode(url.split(",")[1]) for url in urls]
        return getattr(self, f"_{stage}")(text, images)

    def __call__(self, request):
        return says(json.dumps(self.reply(request)))

    def _scene(self, data):
        return self.scenes[hashlib.sha256(data).hexdigest()]

    def _box(self, item, data):
        wide, high = Image.open(io.BytesIO(data)).size
        sides = {"pixels": (wide, high), "thousandths": (1000, 1000), "unit": (1, 1)}[self.convention]
        return [round(value / 1000 * side, 5) for value, side in zip(item.box_1000, sides * 2, strict=True)]

    def _describe(self, text, images):
        scene = self._scene(images[0])
        said = {"description": description_of(scene)}
        if '{"prompt"' in text:
            said["prompt"] = f"a photo of {' and '.join(names_in(scene)) or 'nothing'}"
        return said

    def _extract(self, text, images):
        return {"objects": _THING.findall(json.loads(text.splitlines()[1]))}

    def _ground(self, text, images):
        scene, boxes, left = self._scene(images[0]), [], None
        left = list(scene.objects)
        for number, name in re.findall(r'^(\d+)\. (".*")$', text, re.MULTILINE):
            wanted = parse_phrase(json.loads(name))
            item = next((item for item in left if (item.name, item.color) == wanted), None)
            if item is not None:
                left.remove(item)
            boxes.append({"object": int(number), "bbox_2d": item and self._box(item, images[0])})
        return {"boxes": boxes}

    def _reground(self, text, images):
        wanted = parse_phrase(json.loads(text.splitlines()[2]))
        fitting = [item for item in self._scene(images[0]).objects if (item.name, item.color) == wanted]
        return {"boxes": [{"bbox_2d": self._box(item, images[0])} for item in fitting]}

    def _parse(self, text, images):
        given = {key: json.loads(value) for key, value in re.findall(r'^(Instruction|Before the edit): (".*")$', text,
                                                                     re.MULTILINE)}  # fmt: skip
        edit = self.edits[given["Instruction"], given["Before the edit"]]
        before, after = ([with_article(f"{o.color} {o.name}") for o in items] for items in (edit.erased, edit.drawn))
        kind = TASKS[edit.kind]
        return {"task": kind, "before": before, "after": [] if kind == "attribute" else after}

    def _crop(self, text, images):
        self.crops.append((json.loads(text.splitlines()[1]), Image.open(io.BytesIO(images[0]))))
        return {"phrase": json.loads(text.splitlines()[1])}

    def _compose(self, text, images):
        lines = dict(re.findall(r"^(Instruction|Task|Before the edit|After the edit): (.*)$", text, re.MULTILINE))
        marks = re.findall(r'^\[(\d+)\] (".*"), in the picture', text, re.MULTILINE)
        done = " with ".join(f"{json.loads(phrase)} [{number}]" for number, phrase in marks)
        before = json.loads(lines["Before the edit"]) + " " if "Before the edit" in lines else ""
        after = " Now: " + json.loads(lines["After the edit"]) if "After the edit" in lines else ""
        return {"chain": f"{before}{lines['Task'].capitalize()} {done or 'the ground'}.{after}"}

    def _instruction(self, text, images):
        steps = [json.loads(step) for step in re.findall(r'^\d+\. (".*")$', text, re.MULTILINE)]
        return {"instruction": " then ".join(steps)}


# --------------------------------------------------------------------------------------------------------------- inputs
def scenes(count, seed=0):
    """Scenes of which no two objects share class and colour, so that words tell them apart."""
    rng, found = np.random.default_rng(seed), []
    while len(found) < count:
        scene = sample_scene(rng)
        if len(set(names_in(scene))) == len(scene.objects):
            found.append(scene)
    return found


def edits(count, seed=0):
    rng, found = np.random.default_rng(seed), []
    while len(found) < count:
        edit = sample_edit(rng, list(TASKS)[len(found) % len(TASKS)])
        if all(len(set(names_in(scene))) == len(scene.objects) for scene in (edit.source, edit.target)):
            found.append(edit)
    return found


def turns(seed=0):
    """Two edits, one after the other."""
    rng = np.random.default_rng(seed)
    while True:
        first = sample_edit(rng, "add")
        second = chained(first, rng)
        every = [first.source, first.target] + ([second.target] if second else [])
        if second and all(len(set(names_in(scene))) == len(scene.objects) for scene in every):
            return first, second


def drawn(scene, id, prompt=""):
    return Example(id=id, prompt=prompt, steps=(Step(chain="", target=png(scene)),), provenance=PROVENANCE)


def edited(steps, id, prompt="", **extra):
    parts = tuple(Step(chain="", target=png(edit.target), instruction=edit.instruction) for edit in steps)
    return Example(id=id, prompt=prompt, steps=parts, provenance=PROVENANCE, source=png(steps[0].source), extra=extra)


def stored(folder, examples):
    with storage.Writer(folder) as writer:
        for example in examples:
            writer.add(example)
    return folder


def drawings(truth, folder, count, seed=0, **given):
    """A dataset of scenes that the endpoint knows."""
    found = dict(zip((f"s{n}" for n in range(count)), scenes(count, seed), strict=True))
    truth.knows(*found.values())
    return found, stored(folder, [drawn(scene, id, **given) for id, scene in found.items()])


# ------------------------------------------------------------------------------------------------------------------ run
def arguments(place, output, endpoint, *words):
    parser = Parser()
    command.add_arguments(parser.add_subparsers())
    given = ["annotate", str(place), "--output", str(output), "--model", "vl-1", "--endpoint", endpoint.url]
    return parser.parse_args([*given, *words])


def annotate(place, output, endpoint, *words):
    return command.run(arguments(place, output, endpoint, *words))


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]
