"""Images and Parquet files of the published schemas, and a CLIP, made here."""

import io
import json

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
    image = {name: {"bytes": encoded(seed + k), "path": None} for k, name in enumerate(("source_img", "target_img"))}
    mask = Image.new("L", (8, 6), 0)
    mask.paste(255, (2, 2, 6, 5))
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    return {
        "img_id": image_id,
        "turn_index": turn,
        **image,
        "mask_img": {"bytes": buffer.getvalue(), "path": None},
        "instruction": f"do {turn}",
        "source_global_caption": "before",
        "target_global_caption": "after",
        "target_local_caption": "part",
    }


def word_clip(folder):
    """A real open_clip model with a tokenizer of transformers, as SigLIP's, of a size that fits a test."""
    import open_clip
    import safetensors.torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    from evals.embedders.registry import make_embedder

    words = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "noise": 2, "blue": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    text = {"context_length": 16, "vocab_size": 4, "width": 16, "heads": 2, "layers": 1}
    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
    weights = open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text).state_dict()
    weights = {name: value.contiguous() for name, value in weights.items()}
    safetensors.torch.save_file(weights, folder / "open_clip_model.safetensors")
    model = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": {**text, "hf_tokenizer_name": "in the folder"}}
    config = {"model_cfg": model, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return make_embedder(f"openclip:{folder}")


def save_dino(folder, kind):
    """A DINO (``vit``) or DINOv2 with random weights."""
    from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14}
    if kind == "vit":
        model = ViTModel(ViTConfig(**shape, image_size=28, intermediate_size=64), add_pooling_layer=False)
    else:
        model = Dinov2Model(Dinov2Config(**shape, image_size=56))
    model.save_pretrained(folder)
    return model.eval()


def small_clip(folder):
    """A CLIP with random weights in a folder that is there; gives its name."""
    import open_clip
    import safetensors.torch

    model = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    config = {"model_cfg": model, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    weights = {k: v.contiguous() for k, v in open_clip.CLIP(**model).state_dict().items()}
    safetensors.torch.save_file(weights, folder / "open_clip_model.safetensors")
    return f"openclip:{folder}"
