"""Chain examples for tests, and what must survive a journey through any format."""

import io

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from got.data.records import Example, Provenance, Step
from got.plan.chain import format_box


def png(seed, size=(8, 6)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def make_example(number, task=None):
    """The tasks in turn; every image is another one."""
    task = number % 3 if task is None else task
    steps = tuple(
        Step(
            instruction=f"turn {i}" if task == 2 else "",
            chain=f"there is a dog {format_box((10 * i, 20, 500, 600), 'red')} number {number}",
            target=png(10 * number + i),
        )
        for i in range(3 if task == 2 else 1)
    )
    return Example(
        id=f"e-{number:04d}",
        prompt=f"a dog, {number}",
        steps=steps,
        source=None if task == 0 else png(10 * number + 9),
        provenance=Provenance(
            dataset=f"set {number % 2}", license="CC0-1.0", origin=f"line {number}", made_by="a test"
        ),
        extra={"number": number, "nested": {"list": [1.5, None, True, "ä\u2028\n"]}},
    )


def contents(example):
    """All of an example, with its images' bytes wherever they are kept."""
    return (
        example.id,
        example.prompt,
        [(step.instruction, step.chain, as_bytes(step.target)) for step in example.steps],
        None if example.source is None else as_bytes(example.source),
        example.provenance,
        dict(example.extra),
    )


def as_bytes(image):
    return image if isinstance(image, bytes) else image.read_bytes()


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_SOME_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)
_MAGIC = st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF....WEBP", b"GIF89a", b"BM", b"", b"II*\x00"])
_IMAGES = st.builds(lambda magic, rest: magic + rest, _MAGIC, st.binary(max_size=60))


@st.composite
def _examples(draw, identity):
    source = draw(st.none() | _IMAGES)
    steps = st.builds(Step, chain=_TEXT, target=_IMAGES, instruction=_TEXT)
    return Example(
        id=identity,
        prompt=draw(_TEXT),
        source=source,
        steps=tuple(draw(st.lists(steps, min_size=1, max_size=1 if source is None else 4))),
        provenance=draw(st.builds(Provenance, dataset=_SOME_TEXT, license=_TEXT, origin=_TEXT, made_by=_TEXT)),
        extra=draw(st.dictionaries(_TEXT, _JSON, max_size=3)),
    )


_IDS = st.text("abcXYZ019-_", min_size=1, max_size=150)
DATASETS = st.lists(_IDS, max_size=5, unique=True).flatmap(lambda ids: st.tuples(*map(_examples, ids)))
"""Up to five examples with any text, any JSON, and images of any bytes."""
