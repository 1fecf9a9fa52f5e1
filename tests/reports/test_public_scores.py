"""Reports of what others bring: own prompts, other wordings of the same cases, the public scorer's file alone."""

import json

import pytest
import runner_kit
from report_kit import BOTH, CHAIN, METADATA, NO_DOG, change_lines, write_lines, write_run

from evals.core.records import UserError
from evals.geneval import prompts as geneval_prompts
from reports import __main__ as reports_main
from reports import changes, compare, public_scores, style, tables
from reports.frames import load, load_run, provenance
from reports.samples import load_samples


def call(capsys, *words):
    code = reports_main.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def public(folder, right, root="/their/images", names=range(100), **changes):
    """The public scorer's file: a line per image, `right` of each prompt's images as 0 and 1, their numbers `names`."""
    folder.mkdir(parents=True)
    lines = []
    for case, images in enumerate(right):
        told = {**geneval_prompts.generate()[case], **changes}
        for name, letter in zip(names, images, strict=False):
            line = {"filename": f"{root}/{case:05d}/samples/{name:05d}.png", "tag": told["tag"]}
            line |= {"prompt": told["prompt"], "correct": letter == "1", "reason": "", "metadata": json.dumps(told)}
            lines.append({**line, "details": json.dumps({"bench": [[1, 2, 3, 4, 0.9]]})})
    write_lines(folder / "results.jsonl", lines)
    return folder


# ------------------------------------------------------------------------------------------------- public scorer's file
def test_a_public_scores_file_has_scores_with_intervals(capsys, tmp_path):
    folder = public(tmp_path / "theirs", ["1111", "1101", "1111"])
    for place in (folder, folder / "results.jsonl"):
        code, out, _ = call(capsys, "table", place, "--format", "markdown")
        assert code == 0
        (row,) = [line for line in out.splitlines() if line.startswith("| unknown")]
        assert "| 0.917 (0.507–0.994) |" in row
        assert row.endswith("| 12 |")
        assert "detector unknown" in out
        assert "weights unknown" in out
    run = load_run(folder)
    assert (run.wording, run.scores["detector"]) == (None, "unknown")
    assert provenance(run)["scorer"] == "version unknown"


def named(folder, numbers, wrong=()):
    """The same file with other numbers in the images' names: a list of them per prompt."""
    folder = public(folder, ["1" * len(each) for each in numbers])
    lines = runner_kit.lines(folder / "results.jsonl")
    for line, (case, number) in zip(lines, [(c, n) for c, each in enumerate(numbers) for n in each], strict=True):
        line["filename"] = f"/their/{case:05d}/samples/{number}.png"
        line["correct"] = (case, number) not in wrong
    write_lines(folder / "results.jsonl", lines)
    return folder


@pytest.mark.parametrize(
    ("numbers", "indexes", "missing"),
    [([[1, 2, 3, 4]] * 3, [[0, 1, 2, 3]] * 3, 0),
     ([[42, 1234, 3000000]] * 3, [[0, 1, 2]] * 3, 0),
     ([[3000000, 42, 1234], [7], [42, 50]], [[2, 0, 1], [0], [0, 1]], 3),
     ([[1, 2, 3, 4], [1, 2, 4], [3]], [[0, 1, 2, 3], [0, 1, 3], [2]], 4),
     ([[0, 1, 2, 3], [3]], [[0, 1, 2, 3], [3]], 3)],
)  # fmt: skip
def test_numbers_in_names_are_no_count_of_images(tmp_path, numbers, indexes, missing):
    run = load_run(named(tmp_path / "theirs", numbers))
    assert [(int(image.case), image.index) for image in load_samples(run)] == [
        (case, index) for case, each in enumerate(indexes) for index in each
    ]
    overall = run.scores["overall"]
    assert overall["missing"] == missing
    assert (overall["bounds"] is None) == (missing == 0)


def test_a_wrong_image_is_named_by_its_index(tmp_path):
    run = load_run(named(tmp_path / "theirs", [[7, 99999, 5]] * 2, wrong={(1, 99999)}))
    assert run.scores["faults"] == {"00001/2": "untraced"}


@pytest.mark.parametrize("names", [(0, 1, 2), (1, 2, 3), (42, 1234, 3_000_000)])
def test_any_numbers_of_images_are_their_order(tmp_path, names):
    run = load_run(public(tmp_path / "theirs", ["110", "111", "101"], names=names))
    assert (run.scores["missing"]["total"], run.scores["overall"]["bounds"]) == (0, None)
    assert compare.of_run(run).right["00000"] == (True, True, False)
    assert run.scores["faults"] == {"00000/2": "untraced", "00002/1": "untraced"}


def test_a_public_scores_file_may_begin_with_a_byte_order_mark(tmp_path):
    path = public(tmp_path / "theirs", ["11"]) / "results.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_run(path).scores["overall"]["score"]["n"] == 2


def test_an_image_that_a_prompt_lacks_is_missing_where_others_have_its_number(tmp_path):
    folder = public(tmp_path / "theirs", ["110", "111"], names=(1, 2, 3))
    write_lines(folder / "results.jsonl", runner_kit.lines(folder / "results.jsonl")[1:])
    run = load_run(folder)
    assert run.scores["missing"]["total"] == 1
    assert compare.of_run(run).right["00000"] == (None, True, False)


def test_images_that_are_numbered_otherwise_in_each_prompt_count_as_many_as_there_are(tmp_path):
    folder = public(tmp_path / "theirs", ["11", "01"])
    lines = runner_kit.lines(folder / "results.jsonl")
    seeds = iter((5, 9_000_000, 7, 8))
    named = [{**line, "filename": f"{line['filename'][:-9]}{next(seeds)}.png"} for line in lines]
    write_lines(folder / "results.jsonl", named[::-1])
    run = load_run(folder)
    assert run.scores["missing"]["total"] == 0
    assert compare.of_run(run).right == {"00000": (True, True), "00001": (False, True)}


def test_public_files_are_compared_with_each_other_and_with_runs(capsys, tmp_path):
    before, after = public(tmp_path / "a", ["1111"] * 20), public(tmp_path / "b", ["0001"] * 20, root="b")
    code, out, _ = call(capsys, "compare", before, after / "results.jsonl")
    assert code == 0
    assert json.loads(out.splitlines()[-1])["verdict"] == "worse"
    assert "60 images lost" in out
    own = write_run(tmp_path / "own", [(CHAIN, BOTH, None)] * 2)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    write_lines(theirs / "results.jsonl", runner_kit.lines(own / "results.jsonl"))
    code, out, _ = call(capsys, "compare", own, theirs)
    assert code == 0
    assert json.loads(out.splitlines()[-1])["difference"] == 0
    with style.sheet():
        assert changes.of_two(load_run(own), load_run(theirs)).page.sections


@pytest.mark.parametrize(
    ("change", "said"),
    [({"filename": "a.png"}, "line 1: filename is 'a.png'"), ({"correct": "yes"}, "line 1: correct is 'yes'"),
     ({"metadata": "{}"}, "line 1: metadata has no list"), ({"metadata": "{"}, "line 1: "), ({"tag": 3}, "tag is 3"),
     ({"filename": "00000/samples/0000.png"}, "image 00000/0 stands in an earlier line")],
)  # fmt: skip
def test_what_is_no_public_scores_file_is_one_line(capsys, tmp_path, change, said):
    folder = public(tmp_path / "theirs", ["11"])
    change_lines(folder / "results.jsonl", **change)
    for words in (("table", folder), ("compare", folder, public(tmp_path / "other", ["11"]))):
        code, out, err = call(capsys, *words)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert said in err


def test_a_file_without_a_key_or_without_lines_is_one_line(capsys, tmp_path):
    path = tmp_path / "theirs.jsonl"
    for text, said in (
        ("{}", "line 1: 'filename' is missing"),
        ("[]", "Expected a JSON object"),
        ("", "has no lines"),
        ("{", "line 1 is not valid JSON: Expecting property name enclosed in double quotes at column 2"),
    ):
        path.write_text(text)
        code, _, err = call(capsys, "table", path)
        assert (code, len(err.splitlines())) == (2, 1)
        assert said in err
    code, _, err = call(capsys, "table", tmp_path)
    assert code == 2
    assert "run.json is missing" in err


def test_a_gate_needs_to_know_how_images_were_made(capsys, tmp_path):
    folder = public(tmp_path / "theirs", ["11"])
    code, _, err = call(capsys, "baseline", folder, "--output", tmp_path / "b.json")
    assert code == 2
    assert "does not say how its images were made" in err


def test_cases_of_one_id_have_one_prompt(tmp_path):
    folder = public(tmp_path / "theirs", ["11"])
    lines = runner_kit.lines(folder / "results.jsonl")
    write_lines(folder / "results.jsonl", [lines[0], {**lines[1], "prompt": "a chair"}])
    with pytest.raises(UserError, match="case 00000 is 'a photo of a bench' and 'a chair'"):
        load_run(folder)
    assert public_scores.place_of(tmp_path / "nothing") is None


# ------------------------------------------------------------------------------------------------------ other wordings
def worded(folder, prompt, **metadata):
    """A run of the same case in other words."""
    run = write_run(folder, [(CHAIN, BOTH, None), (CHAIN, NO_DOG, None)])
    told = json.dumps({**METADATA, "prompt": prompt, **metadata})
    change_lines(run / "results.jsonl", prompt=prompt, metadata=told)
    return run


def test_the_same_cases_in_other_words_are_compared_with_a_note(capsys, tmp_path):
    one = write_run(tmp_path / "one" / "a", [(CHAIN, BOTH, None), (CHAIN, NO_DOG, None)])
    other = worded(tmp_path / "other" / "b", "In a sunny park, a red apple lies beside a blue dog.")
    code, out, _ = call(capsys, "compare", one, other)
    assert code == 0
    said = "1 of 1 case asks for the same in other words, case 00000 in 'a photo of a red apple and a blue dog' and 'In"
    assert said in out
    assert said in json.loads(out.splitlines()[-1])["note"]
    runs, _ = load([one, other])
    rows, said_of_both = compare.compare(*map(compare.of_run, runs)), [compare.wordings(*runs)]
    table = compare.comparison_table(rows, "a", "b", "prompts", said_of_both, runs)
    assert any(said in note for note in table.notes)
    assert compare.wordings(runs[0], runs[0]) == ""


@pytest.mark.parametrize(
    "metadata",
    [{"include": [{"class": "cat", "count": 1}]}, {"exclude": [{"class": "cat", "count": 1}]}, {"tag": "two_object"},
     {"include": []}],
)  # fmt: skip
def test_cases_that_ask_for_something_else_are_not_compared(capsys, tmp_path, metadata):
    one = write_run(tmp_path / "one" / "a", [(CHAIN, BOTH, None), (CHAIN, NO_DOG, None)])
    code, _, err = call(capsys, "compare", one, worded(tmp_path / "other" / "b", "a cat", **metadata))
    assert code == 2
    assert "the runs are of other prompts: case 00000" in err


# --------------------------------------------------------------------------------------------------------- own prompts
def test_own_prompts_have_their_own_columns_and_no_published_rows(capsys, tmp_path):
    asked = {"prompt": "nine benches in a row", "tag": "in a row", "include": [{"class": "bench", "count": 9}]}
    folder = public(tmp_path / "own", ["1111", "0101"], **asked)
    code, out, _ = call(capsys, "table", folder)
    assert code == 0
    assert "GoT-6B" not in out
    header = out.split("\n\n")[1]
    assert "in a row" in header
    assert "counting" not in header
    assert "\nunknown images, own prompts:\n" in out
    known = public(tmp_path / "known", ["1111"])
    code, out, _ = call(capsys, "table", folder, known, "--format", "markdown")
    assert code == 0
    assert "GoT-6B" in out
    assert "counting | colors" in out.replace("_", " ")
    assert "own prompts, whose scores do not compare with published ones" in out


def test_an_older_run_of_own_prompts_is_known_by_its_file(tmp_path):
    run = write_run(tmp_path / "run")
    scores = json.loads((run / "scores.json").read_text())
    scores.pop("wording", None)
    for prompts, wording in (("geneval", None), ("/my/prompts.jsonl", "own prompts")):
        (run / "scores.json").write_text(json.dumps({**scores, "prompts": prompts}))
        assert load_run(run).wording == wording


def test_a_report_says_how_intervals_were_made(tmp_path):
    run = write_run(tmp_path / "run")
    scores = json.loads((run / "scores.json").read_text())
    assert any("Bayesian bootstrap, clustered by prompt" in n for n in tables.geneval_table(load([run])[0]).notes)
    scores.pop("intervals")
    (run / "scores.json").write_text(json.dumps(scores))
    (old,) = [note for note in tables.geneval_table(load([run])[0]).notes if "intervals" in note]
    assert old == "95 % intervals: bootstrap, clustered by prompt."
