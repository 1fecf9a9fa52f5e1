"""A judge on this machine: a real Qwen2.5-VL, processor and weights on disk, of a size that fits a test."""

import pytest
import torch
from judge_kit import question
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from evals.judge_backends import JudgeParams, TransformersBackend
from evals.judge_protocols import make_protocol
from evals.judges import JudgeSettings, VlmJudge, make_judge
from evals.records import UserError
from evals.rundir import png_bytes

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


def build(folder, answer=None):
    """A model with random weights; with an answer, its generation config makes it give that one."""
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
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIALS[3:]),
    )
    Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=28 * 28 * 16),
        tokenizer=fast,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    number = dict(zip(SPECIALS, fast.convert_tokens_to_ids(list(SPECIALS)), strict=True))
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(fast),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
            "eos_token_id": number["<|im_end|>"],
            "bos_token_id": number["<|endoftext|>"],
            "pad_token_id": number["<|endoftext|>"],
            "initializer_range": 0.5,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
            "window_size": 56,
        },
        image_token_id=number["<|image_pad|>"],
        video_token_id=number["<|video_pad|>"],
        vision_start_token_id=number["<|vision_start|>"],
        vision_end_token_id=number["<|vision_end|>"],
    )
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = number["<|im_end|>"]
    model.generation_config.pad_token_id = number["<|endoftext|>"]
    if answer:
        (said,) = fast.encode(answer)
        model.generation_config.sequence_bias = [[[said], 1e3], [[said, number["<|im_end|>"]], 1e4]]
    model.save_pretrained(folder)
    return folder


def test_a_local_model_judges_by_the_same_rules(tmp_path):
    folder = build(tmp_path / "judge-vl", '{"score": [7, 3]}')
    judge = VlmJudge(make_protocol("viescore"), TransformersBackend(str(folder)), JudgeSettings())
    answers = judge.judge([question(seed=1), question(seed=2)])
    assert [answer.value for answer in answers] == [pytest.approx(0.3)] * 2
    assert judge.name.startswith("viescore@judge-vl-")
    assert answers[0].tokens_out == 4


def test_an_untrained_model_writes_nonsense_and_nonsense_is_missing(tmp_path):
    backend = TransformersBackend(str(build(tmp_path / "m")))
    judge = VlmJudge(make_protocol("got"), backend, JudgeSettings(params=JudgeParams(max_tokens=12), attempts=2))
    (answer,) = judge.judge([question()])
    assert (answer.failure, answer.value, answer.calls) == ("unparsable", None, 2)
    assert all(answer.replies)


def test_the_pictures_reach_the_model_in_their_order(tmp_path):
    backend = TransformersBackend(str(build(tmp_path / "m")))
    params = JudgeParams(max_tokens=24)
    red, wide = (png_bytes(Image.new("RGB", size, color)) for size, color in (((28, 28), "red"), ((112, 56), "blue")))
    replies = {name: backend.ask("x", files, params, None) for name, files in
               {"none": [], "red": [red], "both": [red, wide], "swapped": [wide, red]}.items()}  # fmt: skip
    tokens = {name: reply.tokens_in for name, reply in replies.items()}
    assert tokens["red"] - tokens["none"] == 3  # one patch and its two marks
    assert tokens["both"] - tokens["red"] == 2 + 8  # 112 by 56 pixels are 8 patches
    assert tokens["both"] == tokens["swapped"]
    assert len({reply.text for reply in replies.values()}) == 4


def test_other_weights_are_another_judge(tmp_path):
    folder = build(tmp_path / "m")
    first = TransformersBackend(str(folder)).id
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight += 1
    model.save_pretrained(folder)
    assert TransformersBackend(str(folder)).id != first


def test_what_cannot_be_loaded_is_one_line(tmp_path):
    import argparse

    from evals import judges

    parser = argparse.ArgumentParser()
    judges.add_arguments(parser.add_argument_group("judge"))
    with pytest.raises(UserError, match=r"hf:.* cannot be loaded"):
        make_judge(f"hf:{tmp_path}", parser.parse_args([]))
