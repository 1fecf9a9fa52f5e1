"""A real Qwen2.5-VL or Qwen3-VL, processor and weights on disk, of a size that fits a test."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}"
    "{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
    "initializer_range": 0.5,
}
VISION = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2}


def build(folder, answer=None, kind="qwen2_5_vl", side_px=112, text=None):
    """A model with random weights.

    Args:
        folder: Where it is written.
        answer: Its generation config makes it give this one.
        kind: ``qwen2_5_vl`` or ``qwen3_vl``.
        side_px: Larger images are scaled down to the pixels of a square of this side.
        text: Sizes of the language model in place of `TEXT`'s.
    """
    fast = _tokenizer(answer)
    number = dict(zip(SPECIALS, fast.convert_tokens_to_ids(list(SPECIALS)), strict=True))
    marks = {"eos_token_id": number["<|im_end|>"], "bos_token_id": number["<|endoftext|>"],
             "pad_token_id": number["<|endoftext|>"]}  # fmt: skip
    size = {**TEXT, **(text or {}), "vocab_size": len(fast), **marks}
    places = {
        f"{name}_token_id": number[f"<|{token}|>"]
        for name, token in (("image", "image_pad"), ("video", "video_pad"), ("vision_start", "vision_start"),
                            ("vision_end", "vision_end"))
    }  # fmt: skip
    sight = {**VISION, "out_hidden_size": size["hidden_size"]}
    pixels = {"min_pixels": 28 * 28, "max_pixels": side_px * side_px}
    if kind == "qwen3_vl":
        images, videos = Qwen2VLImageProcessor(patch_size=16, **pixels), Qwen3VLVideoProcessor()
        vision = {**sight, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
        make, processor = Qwen3VLForConditionalGeneration, Qwen3VLProcessor
        config = Qwen3VLConfig(text_config={"head_dim": 8, **size}, vision_config=vision, **places)
    else:
        images, videos = Qwen2VLImageProcessor(**pixels), Qwen2VLVideoProcessor()
        vision = {**sight, "fullatt_block_indexes": [1], "window_size": 56}
        make, processor = Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
        config = Qwen2_5_VLConfig(text_config=size, vision_config=vision, **places)
    made = processor(image_processor=images, tokenizer=fast, video_processor=videos, chat_template=TEMPLATE)
    made.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        model = make(config)
    model.generation_config.eos_token_id = number["<|im_end|>"]
    model.generation_config.pad_token_id = number["<|endoftext|>"]
    if answer:
        (said,) = fast.encode(answer)
        model.generation_config.sequence_bias = [[[said], 1e3], [[said, number["<|im_end|>"]], 1e4]]
    model.save_pretrained(folder)
    return folder


def _tokenizer(answer):
    """One token a byte, and one for the answer."""
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate([*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet())])},
            merges=[],
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIALS))
    tokenizer.add_tokens([answer] if answer else [])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIALS[3:]),
    )
