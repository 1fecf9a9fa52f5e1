"""GenEval: prompts, verdicts against the public scorer's own, and the road from images to results."""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals import geneval, geneval_prompts
from evals.geneval import Options, verdict
from evals.records import Case, Detection, UserError
from evals.vocabulary import CLASSES, COLORS, RELATIONS, TASKS

GOLDEN = Path(__file__).parent / "golden" / "geneval_cases.jsonl.gz"
MIRROR = {"left of": "right of", "right of": "left of", "above": "above", "below": "below"}


def _same_up_to_relation_order(reason: str) -> list[str]:
    lines = []
    for line in reason.split("\n"):
        head, found, tail = line.partition(", found ")
        if tail.endswith(" target"):
            tail = " and ".join(sorted(tail.removesuffix(" target").split(" and ")))
        lines.append(head + found + tail)
    return lines


def _golden_cases():
    with gzip.open(GOLDEN, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _case(metadata, tag=None):
    return Case(id="00000", prompt=metadata.get("prompt", ""), tag=tag or metadata["tag"], metadata=metadata)


def _detections(items):
    return [
        Detection(name=d["cls"], score=d["score"], box_xyxy_px=tuple(d["box"]), color=d["color"]) for d in items
    ]


# ------------------------------------------------------------------------------------------------------------ prompts
def test_prompts_are_the_public_file():
    lines = geneval_prompts.generate()
    assert len(lines) == 553
    assert hashlib.sha256(geneval_prompts.as_text(lines).encode()).hexdigest() == geneval_prompts.SHA256
    assert [line["tag"] for line in lines] == sorted((line["tag"] for line in lines), key=TASKS.index)


def test_the_public_file_passes_as_own_prompts(tmp_path):
    lines = geneval_prompts.generate()
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text(geneval_prompts.as_text(lines))
    assert geneval_prompts.read(path) == lines


GOOD = {"tag": "position", "prompt": "p", "include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1}]}


def _with_include(**changes):
    return {**GOOD, "include": [GOOD["include"][0], {**GOOD["include"][1], **changes}]}


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("{", ["not JSON"]),
        ("[]", ["list", "JSON object"]),
        ({"tag": "x", "prompt": "p"}, ["prompt, tag", "include, prompt, tag"]),
        ({**GOOD, "surprise": 1}, ["surprise", "optionally exclude"]),
        ({**GOOD, "prompt": " "}, ["prompt", '" "', "non-empty"]),
        ({**GOOD, "include": []}, ["include is []"]),
        ({**GOOD, "include": ["dog"]}, ['include[0] is "dog"']),
        (_with_include(**{"class": "mouse"}), ['include[1].class is "mouse"', "computer mouse"]),
        (_with_include(count=0), ["include[1].count is 0", "at least 1"]),
        (_with_include(count=True), ["include[1].count is true"]),
        (_with_include(color="teal"), ['"teal"', "red, orange, yellow"]),
        (_with_include(position="above"), ["include[1].position", "[relation, include index]"]),
        (_with_include(position=["beside", 0]), ['"beside"', "left of, right of, above, below"]),
        (_with_include(position=["above", 1]), ["include[1].position[1] is 1", "less than 1"]),
        ({**GOOD, "exclude": [{"class": "dog", "count": 2, "color": "red"}]}, ["exclude[0]", "class, color, count"]),
    ],
)
def test_a_bad_prompt_line_is_one_clear_error(tmp_path, line, parts):
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + (line if isinstance(line, str) else json.dumps(line)) + "\n")
    with pytest.raises(UserError) as caught:
        geneval_prompts.read(path)
    message = str(caught.value)
    assert "line 2" in message
    assert "\n" not in message
    assert [part for part in parts if part not in message] == []


def test_an_empty_or_unreadable_prompt_file_is_an_error(tmp_path):
    (tmp_path / "empty").write_text("\n\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("empty", "binary", "absent"):
        with pytest.raises(UserError, match=name):
            geneval_prompts.read(tmp_path / name)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                        st.sampled_from(["tag", "include", "prompt", "exclude", "class", "count", "color", "position"]),
                        inner, max_size=5), max_leaves=12))
def test_any_json_is_accepted_or_refused_in_words(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("prompts") / "own.jsonl"
    path.write_text(json.dumps(value) + "\n")
    with pytest.raises(UserError, match="line 1"):
        geneval_prompts.read(path)


# ----------------------------------------------------------------------------------------------------------- verdicts
def test_all_golden_cases():
    cases = _golden_cases()
    assert len(cases) == 2000
    wrong = []
    for number, golden in enumerate(cases):
        judged = verdict(_case(golden["metadata"]), _detections(golden["detections"]), Options(**golden["options"]))
        kept = {name: [[*d.box_xyxy_px, d.score] for d in found] for name, found in judged.kept.items()}
        expected = golden["expected"]
        same = (
            judged.correct == expected["correct"]
            and kept == expected["kept"]
            and _same_up_to_relation_order(judged.reason) == _same_up_to_relation_order(expected["reason"])
        )
        if not same:
            wrong.append((number, judged, expected))
    assert wrong == []
