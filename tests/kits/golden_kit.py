"""Golden tensors of the released inference code: a part that is in the repository, and the complete set beside it.

`tests/data/got` has the small checkpoint without the copies that it never reads, and one case or more of every kind:
drawing, editing, without guidance, without boxes (these from prompt to image), two images, no squares, greedy
chains (cut down to some of their tensors). The environment variable
``GOT_GOLDEN`` names a folder with the complete sets (checkpoints in the released layout, a folder of cases each); with
it, every tensor of every case is checked.
"""

import dataclasses
import functools
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from got.released.convert import convert
from got.released.reference import ReferencePipeline

DATA = Path(__file__).parents[1] / "data" / "got"
COMPLETE = os.environ.get("GOT_GOLDEN")
SETS = ["part", *(("small", "full_vocab") if COMPLETE else ())]
# The reference's own argument names to ours, where a case was made with others than greedy decoding.
SCALES = {"guidance_scale": 7.5, "cond_image_guidance_scale": 4.0, "image_guidance_scale": 1.0}


@dataclasses.dataclass(frozen=True)
class Case:
    """One call of the released code, and every tensor of it that was kept."""

    name: str
    folder: Path
    arrays: dict

    def __contains__(self, key):
        return key in self.arrays

    def __getitem__(self, key):
        array = self.arrays[key]
        return str(array) if array.dtype.kind == "U" else torch.from_numpy(np.array(array))

    @property
    def arguments(self):
        arguments = json.loads(self["call_kwargs"])
        if "image" in arguments:
            with Image.open(self.folder / arguments["image"].removeprefix("image:")) as source:
                arguments["image"] = source.copy()
        return arguments

    @property
    def image(self):
        return self.arguments.get("image")

    @property
    def turns(self):
        return sorted({key.partition("_")[0] for key in self.arrays if key[0] == "t" and key[1].isdigit()})

    @property
    def rounds(self):
        """Calls of the language model that were left to it."""
        names = sorted({key.partition("_")[0] for key in self.arrays if key.startswith("gen") and key[3].isdigit()})
        return [] if "forced_eos_token_id" in self.arguments else names

    def shown(self, key):
        """The images that the language model had been shown by the end of a sequence."""
        looks = key in ("t1", "gen2", "gen3")
        return [*filter(None, [self.image]), *([Image.fromarray(self.arrays["t0_image"])] if looks else [])]


@functools.cache
def cases(name):
    folder = DATA / "cases" if name == "part" else Path(COMPLETE) / name / "golden"
    found = []
    for file in sorted(folder.glob("*.npz")):
        with np.load(file) as stored:
            found.append(Case(file.stem, folder, {key: stored[key] for key in stored.files}))
    return found


def all_cases(having=""):
    """(set, case) of every case that has an array whose name ends so."""
    return [
        (name, case)
        for name in SETS
        for case in cases(name)
        if any(key.endswith(having) for key in case.arrays) or not having
    ]


def case_id(value):
    return value.name if isinstance(value, Case) else value


def released_state():
    """The small checkpoint's state dict."""
    state = {}
    for name in ("released.npz", "unet.npz"):
        with np.load(DATA / name) as stored:
            state |= {key: torch.from_numpy(stored[key]) for key in stored.files}
    return state


@functools.cache
def scratch():
    """A folder that lives as long as the tests."""
    folder = tempfile.TemporaryDirectory(prefix="golden-")
    scratch.keep = folder
    return Path(folder.name)


@functools.cache
def pipeline(name):
    """A converted checkpoint of one of the sets."""
    output = scratch() / name
    if name == "part":
        source = scratch() / "released"
        source.mkdir()
        torch.save(released_state(), source / "pytorch_model.bin")
        convert(source, DATA / "qwen", DATA / "sdxl", output)
    else:
        folder = Path(COMPLETE) / name
        convert(folder / "GoT-tiny", folder / "Qwen2.5-VL-tiny", folder / "sdxl-tiny", output)
    pipe = ReferencePipeline.from_pretrained(output)
    pipe.set_progress_bar_config(disable=True)
    return pipe
