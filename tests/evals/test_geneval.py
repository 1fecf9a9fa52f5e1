"""GenEval: prompts, verdicts against the public scorer's own, and the road from images to results."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.core.records import Case, Detection, UserError
from evals.core.vocabulary import RELATIONS, TASKS
from evals.geneval import prompts, suite
from evals.geneval.suite import Options, verdict
from evals.suite.objects import as_log, from_log

GOLDEN = Path(__file__).parents[1] / "golden" / "geneval_cases.jsonl.gz"
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
    return [Detection(name=d["cls"], score=d["score"], box_xyxy_px=tuple(d["box"]), color=d["color"]) for d in items]


SHA256 = "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"
"""Of the public ``evaluation_metadata.jsonl``, 553 lines."""


def as_text(lines):
    return "".join(json.dumps(line) + "\n" for line in lines)


# ------------------------------------------------------------------------------------------------------------ prompts
def test_prompts_are_the_public_file():
    lines = prompts.generate()
    assert len(lines) == 553
    assert hashlib.sha256(as_text(lines).encode()).hexdigest() == SHA256
    assert [line["tag"] for line in lines] == sorted((line["tag"] for line in lines), key=TASKS.index)


def test_the_case_in_the_module_docstring_is_a_real_one():
    line = as_text([prompts.generate()[188]])
    assert "``00188``" in suite.__doc__
    assert line.strip() in " ".join(suite.__doc__.split())


def test_the_public_file_passes_as_own_prompts(tmp_path):
    lines = prompts.generate()
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text(as_text(lines))
    assert prompts.read(path) == lines


GOOD = {"tag": "position", "prompt": "p", "include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1}]}


def _with_include(**changes):
    return {**GOOD, "include": [GOOD["include"][0], {**GOOD["include"][1], **changes}]}


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("{", ["line 2, column 2: not JSON", "expected a JSON object"]),
        ("[]", ["list", "JSON object"]),
        ({"tag": "x", "prompt": "p"}, ["the line has no include", "expected tag, include and prompt"]),
        ({**GOOD, "exlude": []}, ["'exlude'", "expected 'exclude'"]),
        (_with_include(region=[0, 0, 1, 1]), ["include[1] has the keys class, count, region", "color, position"]),
        (_with_include(size="large"), ["include[1] has the keys class, count, size"]),
        ({**GOOD, "prompt": " "}, ["prompt", '" "', "non-empty"]),
        ({**GOOD, "include": []}, ["include is []"]),
        ({**GOOD, "include": ["dog"]}, ['include[0] is "dog"']),
        (_with_include(**{"class": "mouse"}), ['include[1].class is "mouse"', "computer mouse"]),
        (_with_include(count=0), ["include[1].count is 0", "from 1 to 10,000"]),
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
        prompts.read(path)
    message = str(caught.value)
    assert "line 2" in message
    assert "\n" not in message
    assert [part for part in parts if part not in message] == []


def test_keys_that_nobody_needs_are_kept_and_noted_once(tmp_path, capsys):
    lines = [{**GOOD, "index": number, "detailed_caption": "d", "seed": 1} for number in range(3)]
    (tmp_path / "own").write_text(as_text(lines))
    assert prompts.read(tmp_path / "own") == lines
    noted = [line.removeprefix(f"note: --prompts {tmp_path}/own: ") for line in capsys.readouterr().err.splitlines()]
    assert noted == [
        "keys that are kept but not used: 'detailed_caption', 'index', 'seed'",
        "lines that repeat an earlier one: 2; for intervals they are one prompt with it",
    ]


def test_a_prompt_of_another_case_is_noted_once_with_an_example(tmp_path, capsys):
    """Only words that are exactly another case's contradict an include: others may be a description of it."""
    every = prompts.generate()
    wrong = [{**every[0], "prompt": every[1]["prompt"]}, {**every[200], "prompt": every[300]["prompt"]}]
    fine = [every[5], {**every[6], "prompt": "own words"}, {**every[180], "tag": "mine", "exclude": []}]
    (tmp_path / "own").write_text(as_text([*fine, *wrong]))
    prompts.read(tmp_path / "own")
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "word for word" in line]
    assert said.startswith(f"note: --prompts {tmp_path}/own: 2 of 5 prompts are word for word another GenEval case's")
    assert f"(line 4: {every[1]['prompt']!r}, but its include asks for 1 bench)" in said
    (tmp_path / "own").write_text(as_text(every))
    prompts.read(tmp_path / "own")
    assert "word for word" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "key", ["prompt_id", "prompt_en", "prompts", "Prompt", "tags", "tag_id", "includes", "included"]
)
def test_keys_like_one_that_is_there_are_no_misspellings(tmp_path, key):
    (tmp_path / "own").write_text(as_text([{**GOOD, key: "x", "exclude": []}]))
    assert prompts.read(tmp_path / "own") == [{**GOOD, key: "x", "exclude": []}]


@pytest.mark.parametrize("key", ["excludes", "Exclude", "exlude"])
def test_keys_like_one_that_is_lacking_are_misspellings(tmp_path, key):
    (tmp_path / "own").write_text(as_text([{**GOOD, key: []}]))
    with pytest.raises(UserError, match=f"line 1: the line has the key '{key}'; expected 'exclude'"):
        prompts.read(tmp_path / "own")


def test_lines_end_at_a_line_feed_alone_and_may_begin_with_a_bom(tmp_path):
    """The other line ends of Unicode stand in captions that models write."""
    ends = "x\u2028\u2029\x85\x1c\x1d\x1e\x0b\x0c"
    line = {**GOOD, "prompt": "a\u2028b\u2029c\x85d"}
    texts = [json.dumps(line, ensure_ascii=False), json.dumps({**GOOD, "prompt": ends})]
    (tmp_path / "own").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(texts).encode() + b"\n\n")
    assert prompts.read(tmp_path / "own") == [line, {**GOOD, "prompt": ends}]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ({"include": [("dog", 1, "red"), ("cat", 1), ("dog", 2, "blue")]}, "dog is to be red and blue"),
        ({"include": [("dog", 1), ("dog", 1, None, ["left of", 0])]}, "dog is to be left of itself"),
        ({"include": [("dog", 2)], "exclude": [("dog", 2)]}, "2 dog are wanted, and fewer than 2 allowed"),
        (
            {"include": [("dog", 1), ("dog", 3)], "exclude": [("cat", 1), ("dog", 1)]},
            "3 dog are wanted, and fewer than 1",
        ),
        ({"include": [("dog", 17)]}, "17 dog are wanted, and 16 counted at most (--max-objects)"),
        (
            {"include": [("cat", 1), ("dog", 1, None, ["above", 0]), ("dog", 1, None, ["below", 0])]},
            "dog is to be below and above cat",
        ),
        (
            {"include": [("cat", 1), ("dog", 1, None, ["above", 0]), ("cat", 1, None, ["above", 1])]},
            "cat is to be above and below dog",
        ),
        ({"include": [("dog", 2)], "exclude": [("dog", 3)]}, None),
        ({"include": [("cat", 1), ("dog", 1, None, ["above", 0]), ("dog", 1, None, ["left of", 0])]}, None),
        ({"include": [("dog", 1, "red"), ("dog", 2)]}, None),
    ],
)
def test_cases_that_can_never_be_right_are_warned_of(tmp_path, capsys, line, fault):
    def item(name, count, color=None, position=None):
        return {"class": name, "count": count} | ({"color": color} if color else {}) | (
            {"position": position} if position else {}
        )  # fmt: skip

    told = {"tag": "t", "prompt": "p", **{key: [item(*one) for one in items] for key, items in line.items()}}
    (tmp_path / "own").write_text(as_text([GOOD, told]))
    prompts.read(tmp_path / "own")
    noted = capsys.readouterr().err
    if fault is None:
        assert "can never be right" not in noted
    else:
        assert f"1 of 2 cases can never be right (line 2: {fault}" in noted
    twice = "cases that name a class twice, where the same objects answer both: 1 (line 2: dog)"
    assert (twice in noted) == (fault is None and len(line["include"]) > 1)


def test_no_case_of_geneval_is_impossible():
    assert [line for line in prompts.generate() if prompts.impossible(line)] == []


def test_an_empty_or_unreadable_prompt_file_is_an_error(tmp_path):
    (tmp_path / "empty").write_text("\n\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("empty", "binary", "absent"):
        with pytest.raises(UserError, match=name):
            prompts.read(tmp_path / name)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["tag", "include", "prompt", "exclude", "class", "count", "color", "position"]),
                inner,
                max_size=5,
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_is_accepted_or_refused_in_words(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("prompts") / "own.jsonl"
    path.write_text(json.dumps(value) + "\n")
    with pytest.raises(UserError, match="line 1"):
        prompts.read(path)


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


NAMES = ("dog", "cat", "hot dog")
SIDE_PX = 512


@st.composite
def _boxes(draw):
    x1, y1 = draw(st.integers(0, SIDE_PX - 10)), draw(st.integers(0, SIDE_PX - 10))
    return (float(x1), float(y1), float(draw(st.integers(x1 + 2, SIDE_PX))), float(draw(st.integers(y1 + 2, SIDE_PX))))


@st.composite
def _scenes(draw):
    """Detections whose scores all differ."""
    scores = draw(st.lists(st.integers(6, 100), max_size=8, unique=True))
    return [
        Detection(
            name=draw(st.sampled_from(NAMES)),
            score=score / 100,
            box_xyxy_px=draw(_boxes()),
            color=draw(st.sampled_from(("red", "blue"))),
        )
        for score in scores
    ]


@st.composite
def _metadata(draw):
    include = []
    for index in range(draw(st.integers(1, 3))):
        item = {"class": draw(st.sampled_from(NAMES)), "count": draw(st.integers(1, 2))}
        if draw(st.booleans()):
            item["color"] = draw(st.sampled_from(("red", "blue")))
        if index and draw(st.booleans()):
            item["position"] = [draw(st.sampled_from(RELATIONS)), draw(st.integers(0, index - 1))]
        include.append(item)
    exclude = [{"class": item["class"], "count": item["count"] + 1} for item in include if draw(st.booleans())]
    return {"tag": draw(st.sampled_from(TASKS)), "include": include, "exclude": exclude, "prompt": "p"}


_options = st.builds(
    Options,
    threshold=st.sampled_from((0.2, 0.3, 0.5)),
    counting_threshold=st.sampled_from((0.5, 0.9)),
    max_objects=st.integers(1, 4),
    max_overlap=st.sampled_from((0.5, 1.0)),
    position_threshold=st.sampled_from((0.0, 0.1, 0.3)),
)


def _mirrored(detection):
    x1, y1, x2, y2 = detection.box_xyxy_px
    return dataclasses.replace(detection, box_xyxy_px=(SIDE_PX - x2, y1, SIDE_PX - x1, y2))


def _mirrored_case(metadata):
    include = [
        {**item, **({"position": [MIRROR[item["position"][0]], item["position"][1]]} if "position" in item else {})}
        for item in metadata["include"]
    ]
    return _case({**metadata, "include": include})


@given(_metadata(), _scenes(), _options)
def test_a_mirrored_image_is_right_for_the_mirrored_prompt(metadata, scene, options):
    here = verdict(_case(metadata), scene, options)
    there = verdict(_mirrored_case(metadata), [_mirrored(detection) for detection in scene], options)
    assert here.correct == there.correct


@given(_metadata(), _scenes(), _options, st.randoms(use_true_random=False))
def test_the_order_of_detections_does_not_matter(metadata, scene, options, random):
    shuffled = list(scene)
    random.shuffle(shuffled)
    assert verdict(_case(metadata), scene, options) == verdict(_case(metadata), shuffled, options)


@given(_metadata(), _scenes(), _options)
def test_detections_at_or_below_the_threshold_do_not_matter(metadata, scene, options):
    case = _case(metadata)
    threshold = options.counting_threshold if case.tag == "counting" else options.threshold
    assert verdict(case, scene, options) == verdict(case, [d for d in scene if d.score > threshold], options)


@given(_metadata(), _scenes(), _options, st.sampled_from((0.5, 2.0, 4.0)))
def test_the_size_of_the_image_does_not_matter(metadata, scene, options, factor):
    if options.max_overlap < 1:  # the +1 pixel convention depends on the scale
        options = dataclasses.replace(options, max_overlap=1.0)
    scaled = [dataclasses.replace(d, box_xyxy_px=tuple(value * factor for value in d.box_xyxy_px)) for d in scene]
    assert verdict(_case(metadata), scene, options).reason == verdict(_case(metadata), scaled, options).reason


@given(_metadata(), _scenes(), _options)
def test_correct_means_no_reason(metadata, scene, options):
    judged = verdict(_case(metadata), scene, options)
    assert judged.correct == (judged.reason == "")
    assert all(len(found) <= options.max_objects for found in judged.kept.values())
    assert all(found == tuple(sorted(found, key=lambda d: -d.score)) for found in judged.kept.values())


@given(_metadata(), _scenes(), _options)
def test_logging_and_reading_a_detection_changes_nothing(metadata, scene, options):
    observation = json.loads(json.dumps({"detections": as_log(scene)}))
    here, there = (verdict(_case(metadata), found, options) for found in (scene, from_log(observation["detections"])))
    assert (here.correct, here.reason) == (there.correct, there.reason)
