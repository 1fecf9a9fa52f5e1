"""`python -m got.data import`: rows that cannot be used, and rows that would be lost without a word."""

import json

import pyarrow.parquet as pq
import pytest
from data_kit import png

from got.data.__main__ import main
from got.data.checking import Findings, check
from got.data.records import Example, Provenance, Step
from got.data.storage import Writer, format_of, read


def row(number, **changes):
    return {"id": f"r{number}", "prompt": f"a dog {number}", "got": "a dog (1,2),(3,4)", "img_path": "a.png", **changes}


@pytest.fixture
def imported(tmp_path, capsys):
    """Imports rows of a released set into a folder; returns exit code, last line, error lines."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png(0))

    def call(lines, *words, name="lahr-got", output="out", file="rows.jsonl"):
        text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
        (tmp_path / file).write_text(text)
        images = ["--images", str(tmp_path / "images"), "--output", str(tmp_path / output)]
        code = main(["import", name, "--annotations", str(tmp_path / file), *images, *words])
        out, err = capsys.readouterr()
        return code, json.loads(out.splitlines()[-1]) if out else None, err

    return call


def ids(folder):
    return sorted(example.id for example in read(folder))


def test_bad_lines_and_texts_that_no_file_takes_are_listed_and_the_rest_is_kept(imported, tmp_path):
    cut = json.dumps(row(1))[:30]
    code, result, _ = imported([row(0), cut, "[]", row(3, prompt="cute dog \ud83d"), row(4)], "--keep-going")
    assert (code, result["written"], result["failed"]) == (0, 2, 3)
    assert ids(tmp_path / "out") == ["r0", "r4"]
    listed = (tmp_path / "out" / "failures.txt").read_text().splitlines()
    assert [
        word in line
        for word, line in zip(
            ("line 2 is not valid JSON", "Expected a JSON object in", "rows.jsonl line 4"), listed, strict=True
        )
    ] == [True] * 3
    code, _, err = imported([row(0), cut, row(4)], output="strict")
    assert code == 2
    assert "rows.jsonl line 2 is not valid JSON" in err


def test_a_damaged_file_is_listed_and_the_next_one_read(tmp_path, imported):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.parquet").write_bytes(b"PAR1")
    (tmp_path / "set" / "b.parquet").write_bytes(b"PAR1")
    _, result, _ = imported([], "--keep-going", file="set/none.jsonl")
    assert result["failed"] == 0
    words = ["--images", str(tmp_path / "images"), "--output", str(tmp_path / "two"), "--keep-going"]
    assert main(["import", "lahr-got", "--annotations", str(tmp_path / "set"), *words]) == 1  # not one example
    assert len((tmp_path / "two" / "failures.txt").read_text().splitlines()) == 2


def test_what_was_listed_is_not_lost_with_an_error_that_ends_it(imported, tmp_path, monkeypatch):
    def full(self, example):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("got.data.storage.Writer.add", full)
    assert imported(["{", row(1)], "--keep-going")[0] == 2
    assert "line 1 is not valid JSON" in (tmp_path / "out" / "failures.txt").read_text()


def test_two_rows_of_one_id_are_an_error_and_not_one_example(imported, tmp_path):
    same = [row(number, id="same") for number in range(3)]
    code, _, err = imported(same)
    assert code == 2
    assert "rows.jsonl line 2: another row has its id, same, too; --field id=NAME" in err
    _, result, _ = imported(same, "--keep-going", output="kept")
    assert (result["written"], result["failed"]) == (1, 2)
    again = imported(same[:1], output="kept")[1]
    assert (again["written"], again["failed"], again["there_before"]) == (0, 0, 1)


def test_rows_without_an_id_are_told_apart_by_file_and_line(imported, tmp_path):
    def turns(file):
        return [{"source_image": "a.png", "instruction_1": f"{file} {i}", "edit_image_1": "a.png"} for i in range(3)]

    for file in ("split_1", "split_0"):
        assert imported(turns(file), name="seed-data-edit", file=f"{file}.jsonl")[1]["written"] == 3
        assert imported(turns(file), name="seed-data-edit", file=f"{file}.jsonl")[1]["written"] == 0
    assert len(ids(tmp_path / "out")) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"got": "a dog <box_0> by a cat <box_1>", "coord": '{"<box_0>": [1, 2, 3, 4]}'}, "a box for '<box_1>'"),
        ({"got": "a dog box_1 by a cat box_2", "coord": '{"box_2": [1, 2, 3, 4]}'}, "a box for 'box_1'"),
        ({"got": "a dog <|box_start|>(1.5,2),(3,4)<|box_end|>"}, "malformed box"),
    ],
)
def test_a_chain_with_a_box_that_nobody_gave_is_refused(imported, changes, message):
    code, _, err = imported([row(0, **changes)])
    assert code == 2
    assert message in err


@pytest.mark.parametrize("end", ["", "-00000-of-00001", "-00000-of-00001-3b2e5a1c"])
def test_splits_of_any_name_are_not_mixed_unasked(imported, tmp_path, capsys, end):
    """The last end is how the hub has named converted files."""
    (tmp_path / "set").mkdir()
    for number, split in enumerate((f"train{end}", f"test{end}")):
        imported([row(number)], file=f"set/{split}.jsonl", output=split)
    words = [
        "--annotations",
        str(tmp_path / "set"),
        "--images",
        str(tmp_path / "images"),
        "--output",
        str(tmp_path / "o"),
    ]
    assert main(["import", "lahr-got", *words]) == 2
    assert "expected a choice of one split (--split), of test, train" in capsys.readouterr().err
    assert main(["import", "lahr-got", *words, "--split", "test"]) == 0
    assert ids(tmp_path / "o") == ["r1"]


def test_a_limit_of_nothing_is_refused(imported):
    assert "--limit: expected a whole number from 1 up but got 0" in imported([row(0)], "--limit", "0")[2]


def test_a_first_try_that_wrote_nothing_does_not_choose_the_format(imported, tmp_path):
    assert imported(["{"])[0] == 2
    assert imported([row(0)], "--format", "parquet")[1]["written"] == 1
    assert format_of(tmp_path / "out") == "parquet"
    assert imported([row(1)])[0] == 2, "now there is something"


def test_a_damaged_group_of_rows_does_not_hide_what_comes_after_it(tmp_path):
    def example(number):
        chain = "" if number >= 200 else "there is a dog"
        step = Step(chain=chain, target=png(0))
        return Example(
            id=f"e{number}", prompt="a dog", steps=(step,), provenance=Provenance(dataset="m", license="CC0")
        )

    with Writer(tmp_path, "parquet") as writer:
        for number in range(250):
            writer.add(example(number))
    assert len(list(check(tmp_path, Findings(), images=False))) == 50
    (file,) = tmp_path.glob("*.parquet")
    with pq.ParquetFile(file) as table:
        rows, start = table.metadata.row_group(0).num_rows, table.metadata.row_group(0).column(0).data_page_offset
    data = bytearray(file.read_bytes())
    data[start : start + 40] = b"\xff" * 40
    file.write_bytes(data)
    findings = Findings()
    found = list(check(tmp_path, findings, images=False))
    assert findings.examples == 250
    assert len(found) == rows + 50
    assert "its group cannot be read" in found[0].problem
