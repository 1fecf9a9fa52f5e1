"""Annotation by a model in this process: a real Qwen2.5-VL that is made to give one reply to everything."""

import json

import pytest
import torch
from annotate_kit import drawn, edited, edits, lines, scenes, stored
from vlm_kit import build

from got.data import storage
from got.data.annotate import command
from got.data.annotate.prompts import prompts_hash
from got.plan.chain import Chain
from got.util.cli import Parser
from got.vlm.clients import SetupError
from got.vlm.local import model_name

REPLY = json.dumps({
    "prompt": "A dog", "description": "A dog on grass.", "objects": ["A dog"],
    "boxes": [{"object": 1, "bbox_2d": [28, 14, 84, 56]}],
    "task": "remove", "before": ["A dog"], "after": [], "phrase": "A dog", "chain": "Remove A dog [1] from the grass.",
})  # fmt: skip


def annotate(place, output, model, *words):
    parser = Parser()
    command.add_arguments(parser.add_subparsers())
    # The test's processor takes 28 * 28 * 16 pixels at most, and would shrink larger images.
    given = ["annotate", str(place), "--output", str(output), "--model", f"hf:{model}", "--boxes", "pixels"]
    return command.run(parser.parse_args([*given, "--max-pixels", "12544", *words]))


def test_a_local_model_goes_through_all_stages(tmp_path):
    model = build(tmp_path / "vl", REPLY)
    (edit,) = edits(1)
    place = stored(tmp_path / "in", [drawn(scenes(1)[0], "t"), edited([edit], "e", "remove the dog")])
    counts = annotate(place, tmp_path / "out", model)
    assert (counts["accepted"], counts["failed"], counts["rejected"]) == (2, {}, {})
    made = {example.id: example for example in storage.read(tmp_path / "out")}
    (drawn_chain,), (edit_chain,) = made["t"].chains, made["e"].chains
    box = "<|box_start|>(333,167),(999,667)<|box_end|> (red)"  # of 84 by 84 pixels
    assert drawn_chain == f"A dog {box} on grass."
    assert edit_chain == f"Remove A dog {box} from the grass."
    assert Chain.parse(edit_chain).warnings == ()
    assert made["t"].provenance.made_by == f"{model_name(str(model))}, prompts {prompts_hash()}"
    replies = lines(tmp_path / "out" / "replies.jsonl")
    assert {line["stage"] for line in replies} == {"describe", "extract", "ground", "parse", "crop", "compose"}
    assert counts["replies"] == len(replies)
    assert all(line["finish"] == "stop" for line in replies)


def test_nonsense_is_missing_and_a_greedy_model_is_asked_once(tmp_path):
    model = build(tmp_path / "vl")
    place = stored(tmp_path / "in", [drawn(scenes(1)[0], "t")])
    counts = annotate(place, tmp_path / "out", model, "--max-tokens", "6")
    (reply,) = lines(tmp_path / "out" / "replies.jsonl")
    assert counts["failed"] == {f"describe: {'truncated' if reply['finish'] == 'length' else 'unparsable'}": 1}
    assert list(storage.read(tmp_path / "out")) == []


def test_a_model_that_is_none_is_one_line(tmp_path):
    place = stored(tmp_path / "in", [drawn(scenes(1)[0], "t")])
    with pytest.raises(SetupError, match="cannot be loaded"):
        annotate(place, tmp_path / "out", tmp_path / "none")


def test_no_global_random_state_is_touched(tmp_path):
    model = build(tmp_path / "vl", REPLY)
    place = stored(tmp_path / "in", [drawn(scenes(1)[0], "t")])
    before = torch.get_rng_state()
    annotate(place, tmp_path / "out", model)
    assert torch.equal(before, torch.get_rng_state())
