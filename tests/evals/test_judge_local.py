"""A judge on this machine: a real Qwen2.5-VL, processor and weights on disk, of a size that fits a test."""

import asyncio

import pytest
import torch
from judge_kit import question
from PIL import Image
from transformers import Qwen2_5_VLForConditionalGeneration
from vlm_kit import build

from evals.core.backends import Tools
from evals.core.records import UserError
from evals.judges.protocols import make_protocol
from evals.judges.registry import JudgeOptions, make_judge
from evals.judges.vlm_judge import VlmJudge
from got.util.images import png_bytes
from got.vlm.asker import AskSettings
from got.vlm.clients import AskParams
from got.vlm.local import TransformersBackend
from got.vlm.messages import user


def test_a_local_model_judges_by_the_same_rules(tmp_path):
    folder = build(tmp_path / "judge-vl", '{"score": [7, 3]}')
    judge = VlmJudge(make_protocol("viescore"), TransformersBackend(str(folder)), AskSettings())
    answers = judge.judge([question(seed=1), question(seed=2)])
    assert [answer.value for answer in answers] == [pytest.approx(0.3)] * 2
    assert judge.name.startswith("viescore@judge-vl-")
    assert answers[0].tokens_out == 4


def test_an_untrained_model_writes_nonsense_and_nonsense_is_missing(tmp_path):
    backend = TransformersBackend(str(build(tmp_path / "m")))
    judge = VlmJudge(make_protocol("got"), backend, AskSettings(params=AskParams(max_tokens=12), attempts=2))
    (answer,) = judge.judge([question()])
    assert (answer.failure, answer.value, answer.calls) == ("truncated", None, 1)  # as long as it may be
    assert all(answer.replies)


def test_the_images_reach_the_model_in_their_order(tmp_path):
    backend = TransformersBackend(str(build(tmp_path / "m")))
    params = AskParams(max_tokens=24)
    red, wide = (png_bytes(Image.new("RGB", size, color)) for size, color in (((28, 28), "red"), ((112, 56), "blue")))
    replies = {name: asyncio.run(backend.ask(user("x", files), params, None)) for name, files in
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
    tools = Tools(detector=pytest.fail, embedder=pytest.fail)
    with pytest.raises(UserError, match=r"hf:.* cannot be loaded"):
        make_judge(JudgeOptions(judge=f"hf:{tmp_path}"), tools)
