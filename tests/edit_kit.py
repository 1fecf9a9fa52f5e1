"""Pictures and Parquet files of the published schemas, made here."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def encoded(seed, suffix="PNG", size=(8, 6)):
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, suffix)
    return buffer.getvalue()


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def write(path, rows, group=3):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)


def turn_row(image_id, turn, seed=0):
    picture = {name: {"bytes": encoded(seed + k), "path": None} for k, name in enumerate(("source_img", "target_img"))}
    mask = Image.new("L", (8, 6), 0)
    mask.paste(255, (2, 2, 6, 5))
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    return {
        "img_id": image_id,
        "turn_index": turn,
        **picture,
        "mask_img": {"bytes": buffer.getvalue(), "path": None},
        "instruction": f"do {turn}",
        "source_global_caption": "before",
        "target_global_caption": "after",
        "target_local_caption": "part",
    }
