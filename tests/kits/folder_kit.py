"""Folders of images as people bring them, for tests."""

import json

from PIL import Image

from evals.geneval import prompts

CASES = prompts.cases(prompts.generate())
CASE = CASES[3]


def put(path, shade=0):
    """A small image in a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (shade, 0, 0)).save(path)
    return path


def tell(root, name, metadata):
    """A case's own metadata."""
    (root / name).mkdir(parents=True, exist_ok=True)
    (root / name / "metadata.jsonl").write_text(json.dumps(metadata))
