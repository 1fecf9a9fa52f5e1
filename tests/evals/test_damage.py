"""Damage to a finished run never becomes another number: it is named, mended from what is whole, or changes nothing."""

import json
import random
import shutil

import pytest
from runner_kit import LOGS, ArithmeticDetector, accept, as_older, contents, make_plan

from evals.core.records import UserError
from evals.harness.runner import run
from got.util.hashes import HASHES, HashedFolder
from reports import __main__ as reports_main
from reports import compare
from reports.frames import load_run
from reports.samples import load_samples

MADE_ANEW = ("observations.jsonl", "chains.jsonl", "results.jsonl", "scores.json", "times.jsonl")


def small(folder, *words, **tools):
    return make_plan(folder, "--limit", "4", "--batch-size", "3", *words, **tools)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference") / "run"
    run(small(folder))
    return folder


@pytest.fixture
def folder(reference, tmp_path):
    return shutil.copytree(reference, tmp_path / "run")


def flip(path, place):
    """Turns one bit of a file around; the same again turns it back."""
    data = bytearray(path.read_bytes())
    data[place // 8 % len(data)] ^= 1 << place % 8
    path.write_bytes(data)


def change(path, old, new):
    text = path.read_bytes()
    assert old in text
    path.write_bytes(text.replace(old, new, 1))


def test_a_line_that_a_kill_tore_is_made_again_with_its_image(reference, folder):
    for name in ("scores.json", "results.jsonl"):  # not finished yet
        (folder / name).unlink()
    torn = (folder / "chains.jsonl").read_bytes()[:-20]
    (folder / "chains.jsonl").write_bytes(torn)
    run(small(folder))
    for name in ("chains.jsonl", "observations.jsonl", "results.jsonl"):
        assert (folder / name).read_bytes() == (reference / name).read_bytes()


@pytest.mark.parametrize("name", MADE_ANEW)
def test_a_flipped_bit_is_named_and_the_same_command_mends_it(reference, folder, capsys, name):
    rng = random.Random(name)
    for _ in range(8):
        place = rng.randrange(8 * (folder / name).stat().st_size)
        flip(folder / name, place)
        capsys.readouterr()
        run(small(folder))
        said = capsys.readouterr().err
        assert f"{name} " in said, place
        assert "damaged" in said or "not valid JSON" in said, place
        assert contents(folder) == contents(reference), place


@pytest.mark.parametrize("name", ["observations.jsonl", "failures.jsonl", "chains.jsonl"])
def test_a_verdict_is_not_given_on_damage(folder, name):
    rng = random.Random(name)
    (folder / name).write_bytes((folder / name).read_bytes() or b"\n")
    for _ in range(20):
        place = rng.randrange(8 * (folder / name).stat().st_size)
        flip(folder / name, place)
        with pytest.raises(UserError, match=rf"{name}.* is damaged.*given again without --from"):
            run(small(folder, "--from", "verdict"))
        flip(folder / name, place)


def test_a_score_that_was_raised_by_hand_is_named_with_its_line(folder):
    change(folder / "observations.jsonl", b'"score": 0.95', b'"score": 0.15')
    with pytest.raises(UserError, match=r"observations\.jsonl line 1 is damaged"):
        run(small(folder, "--from", "verdict"))
    with pytest.raises(UserError, match=r"observations\.jsonl line 1 is damaged"):
        load_samples(load_run(folder))


@pytest.mark.parametrize("name", ["observations.jsonl", "results.jsonl", "chains.jsonl"])
def test_lines_that_are_lost_are_missed(reference, folder, name, capsys):
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(b"".join(whole.splitlines(keepends=True)[:-3]))
    with pytest.raises(UserError, match=rf"{name} is damaged: it has lost lines"):
        load_samples(load_run(folder))
    run(small(folder))
    assert f"{name} is damaged: it has lost lines" in capsys.readouterr().err
    assert contents(folder) == contents(reference)


def test_a_damaged_run_json_is_refused(folder):
    change(folder / "run.json", b'"seed": 42', b'"seed": 43')
    for words in ((), ("--from", "verdict")):
        with pytest.raises(UserError, match=r"run\.json is damaged"):
            run(small(folder, *words))


def test_reports_print_no_damaged_score(folder, capsys):
    value = json.loads((folder / "scores.json").read_bytes())["overall"]["score"]["value"]
    change(folder / "scores.json", str(value).encode(), str(value + 0.1)[: len(str(value))].encode())
    assert reports_main.main(["table", str(folder)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "scores.json is damaged: it is not as it was written; the command that made the run" in said.err


def test_hashes_that_are_damaged_themselves_change_no_number(reference, folder):
    rng = random.Random(0)
    for _ in range(20):
        flip(folder / HASHES, rng.randrange(8 * (folder / HASHES).stat().st_size))
        try:
            run(small(folder))
        except UserError:  # that of run.json was hit
            shutil.copy(reference / HASHES, folder / HASHES)
        assert contents(folder) == contents(reference)


def test_a_run_that_is_killed_while_it_writes_hashes_goes_on(reference, folder):
    (folder / "scores.json").unlink()
    (folder / HASHES).write_bytes((folder / HASHES).read_bytes()[:-5])
    run(small(folder))
    assert contents(folder) == contents(reference)
    assert all(len(one) in (12, 16) for one in (folder / HASHES).read_text().split())


def test_an_older_run_is_read_with_a_note_and_checked_once_it_was_written_to(reference, folder, capsys):
    as_older(folder)
    load_run(folder)
    assert f"note: {folder} is of an older version, without hashes" in capsys.readouterr().err
    run(small(folder))
    assert not (folder / HASHES).exists()
    run(small(folder, "--from", "verdict"))
    assert "its files are taken as they are" in capsys.readouterr().err
    assert contents(folder) == contents(reference)
    change(folder / "observations.jsonl", b'"score": 0.95', b'"score": 0.15')
    with pytest.raises(UserError, match="line 1 is damaged"):
        run(small(folder, "--from", "verdict"))


@pytest.mark.parametrize("number", [b"NaN", b"-Infinity", b"1e999"])
def test_a_number_of_an_older_run_that_is_none_is_one_line(folder, number):
    change(as_older(folder) / "observations.jsonl", b'"color": null', b'"color": ' + number)
    with pytest.raises(UserError, match=r"observations.jsonl has a line with a number that is none \(case 00000, ind"):
        run(small(folder, "--from", "verdict"))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("observations.jsonl", b'"width": 128', b'"width": 1e999'),
        ("observations.jsonl", b'"case": "', b'"case": "' + b"0" * 300),
        ("run.json", b'"--model",', b"[],"),
    ],
)
def test_an_odd_value_of_an_older_run_is_one_line_of_reports(folder, name, old, new):
    change(as_older(folder) / name, old, new)
    with pytest.raises(UserError, match="run has a log that no suite writes"):
        load_samples(load_run(folder))


def test_a_line_of_an_older_run_without_its_case_is_one_line(folder):
    change(as_older(folder) / "observations.jsonl", b'"case"', b'"Case"')
    with pytest.raises(UserError, match="a line without a case and its index"):
        run(small(folder, "--from", "verdict"))


# ------------------------------------------------------------------------------------------------- the folder is gone
@pytest.mark.parametrize("replaced", [False, True])
def test_a_run_whose_folder_is_deleted_does_not_end_well(tmp_path, replaced):
    folder = tmp_path / "run"

    class Deletes(ArithmeticDetector):
        def detect(self, images):
            shutil.rmtree(folder)
            if replaced:
                folder.mkdir()
            return super().detect(images)

    with pytest.raises(UserError, match="was deleted or replaced while the run went on"):
        run(small(folder, detector=Deletes()))
    assert not folder.exists() or not any(folder.iterdir())


# ---------------------------------------------------------------------------------------------------------- baselines
def test_a_baseline_with_a_flipped_bit_passes_no_gate_with_other_numbers(folder, tmp_path, capsys):
    path = tmp_path / "baseline.json"
    assert reports_main.main(["baseline", str(folder), "--output", str(path)]) == 0
    before, whole = compare.of_baseline(path), path.read_bytes()
    rng, refused = random.Random(1), 0
    for _ in range(300):
        flip(path, rng.randrange(8 * len(whole)))
        try:
            assert compare.of_baseline(path) == before
        except UserError:
            refused += 1
        path.write_bytes(whole)
    assert refused > 200


@pytest.mark.parametrize("form", [1, 2])
def test_an_older_baseline_is_read_with_a_note(folder, tmp_path, capsys, form):
    path = tmp_path / "baseline.json"
    assert reports_main.main(["baseline", str(folder), "--output", str(path)]) == 0
    content = json.loads(path.read_bytes())
    path.write_text(json.dumps({**content, "format": form}))
    with pytest.raises(UserError, match="is damaged"):
        compare.of_baseline(path)
    path.write_text(json.dumps({key: value for key, value in content.items() if key != "sha256"} | {"format": form}))
    assert compare.of_baseline(path).right == compare.of_run(load_run(folder)).right
    assert "is of an older version, without a hash" in capsys.readouterr().err


def test_files_that_are_changed_on_purpose_are_accepted(folder):
    change(folder / "observations.jsonl", b'"score": 0.95', b'"score": 0.94')
    accept(folder / "observations.jsonl")
    run(small(folder, "--from", "verdict"))
    assert HashedFolder(folder).read_log("observations.jsonl", complete=True).damage is None
    assert set(LOGS) <= {path.name for path in folder.iterdir()}
