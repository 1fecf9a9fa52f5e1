"""MagicBrush's two forms: the hub's Parquet files and the test set's folder."""

import json
from pathlib import Path

import numpy as np
import pytest
from edit_kit import encoded, pixels, turn_row, write

from evals.core.records import UserError
from evals.editing.magicbrush import load_magicbrush


@pytest.fixture
def magicbrush(tmp_path):
    sessions = {}
    for name, turns in (("242679", 2), ("7", 1)):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        (folder / f"{name}-input.png").write_bytes(encoded(int(name)))
        sessions[name] = []
        for turn in range(1, turns + 1):
            (folder / f"{name}-output{turn}.png").write_bytes(encoded(int(name) + turn))
            (folder / f"{name}-mask{turn}.png").write_bytes(encoded(0))
            sessions[name].append(
                {
                    "input": f"{name}-input.png" if turn == 1 else f"{name}-output{turn - 1}.png",
                    "mask": f"{name}-mask{turn}.png",
                    "output": f"{name}-output{turn}.png",
                    "instruction": f"turn {turn} of {name}",
                }
            )
    (tmp_path / "edit_sessions.json").write_text(json.dumps(sessions))
    captions = {"242679": {"242679-input.png": "start", "242679-output2.png": "end"}}
    (tmp_path / "global_descriptions.json").write_text(json.dumps(captions))
    return tmp_path


def test_magicbrush_single_turns_start_from_the_true_picture_before(magicbrush):
    cases = load_magicbrush(str(magicbrush)).cases
    assert [case.id for case in cases] == ["242679_1", "242679_2", "7_1"]
    assert np.array_equal(np.asarray(cases[1].source.load()), pixels(encoded(242680)))
    assert np.array_equal(np.asarray(cases[1].target.load()), pixels(encoded(242681)))
    assert cases[1].captions == {"target": "end"}
    assert cases[0].captions == {"source": "start"}


def test_magicbrush_multi_turn_is_one_case_a_session(magicbrush):
    loaded = load_magicbrush(str(magicbrush), "multi")
    assert loaded.variant == "test, multi turn"
    case = loaded.cases[0]
    assert case.extra["turns"] == ["turn 1 of 242679", "turn 2 of 242679"]
    assert np.array_equal(np.asarray(case.source.load()), pixels(encoded(242679)))
    assert np.array_equal(np.asarray(case.target.load()), pixels(encoded(242681)))
    assert case.captions == {"target": "end", "source": "start"}


def test_magicbrush_from_parquet_sorts_turns_and_keeps_sessions_apart(tmp_path):
    columns = ("img_id", "turn_index", "instruction", "source_img", "mask_img", "target_img")
    rows = [turn_row("9", 2, 4), turn_row("9", 1, 2), turn_row("8", 1, 0)]
    write(tmp_path / "data/dev-00000-of-00001.parquet", [{key: row[key] for key in columns} for row in rows])
    assert [case.id for case in load_magicbrush(str(tmp_path)).cases] == ["8_1", "9_1", "9_2"]
    last = load_magicbrush(str(tmp_path), "multi").cases[1]
    assert last.extra["turns"] == ["do 1", "do 2"]
    assert np.array_equal(np.asarray(last.source.load()), pixels(encoded(2)))
    with pytest.raises(UserError, match="no Parquet files of split train"):
        load_magicbrush(str(tmp_path), split="train")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"output": "../../../secret.png"}, "lies outside"),
        ({"output": "none.png"}, "no such file"),
        ({"mask": None}, "turn 1 of session 7 lacks one of input, mask"),
    ],
)
def test_a_session_that_names_wrong_files_is_refused(magicbrush, change, words):
    Path(magicbrush.parent / "secret.png").write_bytes(encoded(0))
    path = magicbrush / "edit_sessions.json"
    sessions = json.loads(path.read_text())
    sessions["7"][0].update(change)
    path.write_text(json.dumps(sessions))
    with pytest.raises(UserError, match=words):
        load_magicbrush(str(magicbrush))


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "not JSON"), ("[]", "expected an object of sessions"), ('{"7": []}', "session 7 has no turns")],
)
def test_damaged_sessions_are_refused(magicbrush, content, words):
    (magicbrush / "edit_sessions.json").write_text(content)
    with pytest.raises(UserError, match=words):
        load_magicbrush(str(magicbrush))
