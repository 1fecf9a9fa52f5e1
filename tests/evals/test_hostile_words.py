"""Words from outside (tags, names, prompts, paths) that steer terminals, break tables or cannot be written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from report_kit import write_run
from runner_kit import TOOLS, lines, make_plan, refusing, small_environment

from evals import ablation
from evals.core.contact_sheets import safe
from evals.core.records import Case, Detection, UserError
from evals.generators.folder import FolderGenerator
from evals.generators.oracle import OracleGenerator
from evals.geneval import prompts, suite
from evals.harness import cli
from evals.harness.runner import run
from evals.metrics import boxes
from got.data.importers.coco import _is_box
from got.data.importers.files import Row
from got.data.records import DataError
from got.plan.chain import Chain
from got.util.cli import console
from reports import __main__ as reports_main

ESCAPES = "\x1b]0;owned\x07"
ONE = {"tag": "t", "include": [{"class": "dog", "count": 1}], "prompt": "a dog"}


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


# ------------------------------------------------------------------------------------------------------ what is refused
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({**ONE, "tag": "\udc80"}, "tag has a lone surrogate"),
        ({**ONE, "prompt": "a \udfff dog"}, "prompt has a lone surrogate"),
        ({**ONE, "tag": "a" * 252}, "tag has 252 characters; expected at most 200"),
        ({**ONE, "include": [{"class": "dog", "count": 30_000_000}]}, "expected an integer from 1 to 10,000"),
    ],
)
def test_lines_that_could_never_be_finished_are_refused_at_the_start(tmp_path, line, said):
    with pytest.raises(UserError, match=f"line 2: .*{said}"):
        prompts.read(write(tmp_path / "p.jsonl", ONE, line))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' + "9" * 5_000 + "}", '{"a": ' + "[" * 5_000 + "}"])
def test_json_that_is_too_deep_or_too_long_is_one_line(tmp_path, text):
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(UserError, match="line 1"):
        prompts.read(tmp_path / "p.jsonl")


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a = " + "9" * 5_000, "[cells]\na = 1"])
def test_toml_that_is_too_deep_or_too_long_is_one_line(tmp_path, text):
    (tmp_path / "grid.toml").write_text(text)
    with pytest.raises(UserError, match=r"grid\.toml"):
        ablation.read_grid(str(tmp_path / "grid.toml"))


@pytest.mark.parametrize("kind", ["folder", "link to nowhere", "loop", "long", "forbidden"])
def test_what_is_no_file_is_one_line(tmp_path, capsys, kind):
    path = tmp_path / ("n" * 300 if kind == "long" else "p.jsonl")
    if kind == "folder":
        path.mkdir()
    elif kind == "link to nowhere":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "loop":
        path.symlink_to(path)
    for words in (["--prompts", str(path)], ["--output", str(path / "x")], ["--detector", f"hf:{path}"]):
        code = cli.main(suite.SUITE, ["--model", "oracle", "--limit", "1", "--dry-run", *words])
        said = capsys.readouterr().err
        assert code in (0, 2), said
        assert "Traceback" not in said


# ------------------------------------------------------------------------------------------------------------- numbers
def test_a_box_with_exchanged_corners_stands_somewhere():
    turned, other = (30.0, 30.0, 10.0, 10.0), (15.0, 15.0, 25.0, 25.0)
    assert boxes.relations(turned, other) == ()
    assert boxes.relations((10, 10, 0, 0), (60, 0, 70, 10)) == ("left of",)
    case = Case(
        id="0",
        prompt="",
        tag="position",
        metadata={"include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ["above", 0]}]},
    )
    found = [Detection(name=name, score=0.9, box_xyxy_px=box) for name, box in (("dog", turned), ("cat", other))]
    assert not suite.verdict(case, found, suite.Options()).correct


def test_a_box_beyond_all_images_is_no_box():
    assert not _is_box([0, 0, 1e308, 1e308])
    assert not _is_box([0, 0, 10**400, 5])
    assert _is_box([0.5, 0, 1e4, 1e4])


# ---------------------------------------------------------------------------------------------------------------- files
def test_tags_that_look_alike_have_sheets_of_their_own(tmp_path):
    tags = ["a/b", "a.b", "a b", "A b", "counting"]
    own = [{**ONE, "tag": tag, "prompt": f"a dog {i}"} for i, tag in enumerate(tags)]
    folder = tmp_path / "run"
    run(make_plan(folder, "--prompts", str(write(tmp_path / "p.jsonl", *own)), "--images-per-prompt", "1"))
    assert len({path.stem for path in (folder / "sheets").iterdir()} - {"wrong-images"}) == 5
    assert (folder / "sheets" / "counting.png").is_file()
    assert safe("counting", set()) == "counting"


def test_the_command_line_of_a_run_does_not_grow(tmp_path):
    folder = tmp_path / "run"
    run(make_plan(folder, "--limit", "2"))
    for threshold in ("0.4", "0.5", "0.4"):
        plan = make_plan(folder, "--from", "verdict", "--threshold", threshold)
        run(refusing(plan, "generator", "tools"))
    given = json.loads((folder / "run.json").read_text())["arguments"]["given"]
    assert given.count("--threshold") == 1
    assert given[given.index("--threshold") + 1] == "0.4"
    assert given.count("--limit") == 1


def test_a_log_line_of_an_older_run_without_a_key_is_one_line(tmp_path):
    folder = tmp_path / "run"
    run(make_plan(folder, "--limit", "2"))
    (folder / "hashes.txt").unlink()
    log = folder / "observations.jsonl"
    log.write_text(log.read_text().replace('"detections"', '"detection"', 1))
    with pytest.raises(
        UserError, match=r"observations\.jsonl: the line of .* cannot be scored \(KeyError: .*detections"
    ):
        run(refusing(make_plan(folder, "--from", "verdict"), "generator", "tools"))


def test_two_reports_do_not_write_into_one_folder(tmp_path, capsys):
    folder, target = write_run(tmp_path / "run"), tmp_path / "report"
    target.mkdir()
    program = (
        "import sys, time; from pathlib import Path; from got.util.files import FolderLock\n"
        "with FolderLock(Path(sys.argv[1]), '.lock'): print('held', flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", program, str(target)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=small_environment()) as other:
        try:
            assert other.stdout.readline() == "held\n"
            assert reports_main.main([str(folder), "--output", str(target)]) == 2
        finally:
            other.kill()
    assert f"in use by another process (pid {other.pid})" in capsys.readouterr().err
    assert reports_main.main([str(folder), "--output", str(target)]) == 0
    assert not (target / ".lock").exists()


# ------------------------------------------------------------------------------------------------------------- escaping
def test_nothing_in_a_table_steers_the_terminal(capsys):
    from rich.table import Table

    table = Table(title=f"a{ESCAPES}b")
    table.add_column(f"c{ESCAPES}")
    table.add_row(f"d{ESCAPES}\u202e")
    console().print(table)
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert "d]0;owned" in said


def test_no_command_prints_an_escape_of_a_tag(tmp_path, capsys):
    tag = f"<script>|{ESCAPES}"
    own = write(
        tmp_path / "p.jsonl", {**ONE, "tag": tag}, {**ONE, "tag": tag, "prompt": "a dog, again", "odd\x1b]0;x": 1}
    )
    for name, seed in (("a", "1"), ("b", "2")):
        run(make_plan(tmp_path / name, "--prompts", str(own), "--seed", seed))
    baseline = tmp_path / "b.json"
    commands = [
        ["compare", str(tmp_path / "a"), str(tmp_path / "b")],
        ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--format", "markdown"],
        ["table", str(tmp_path / "a"), "--format", "markdown"],
        ["baseline", str(tmp_path / "a"), "--output", str(baseline)],
        ["gate", "--baseline", str(baseline), "--run", str(tmp_path / "b"), "--junit", str(tmp_path / "j.xml")],
    ]
    for words in commands:
        reports_main.main(words)
        said = capsys.readouterr()
        assert "\x1b" not in said.out + said.err, words
        if "markdown" in words:  # a terminal runs no HTML
            assert "<script>" not in said.out.rpartition("\n{")[0], words
    assert "\x1b" not in (tmp_path / "j.xml").read_text() if (tmp_path / "j.xml").exists() else True
    assert lines(tmp_path / "a" / "results.jsonl")[0]["tag"] == tag, "logs keep the words as they are"


def test_an_ablations_table_keeps_its_cells(capsys):
    row = {"cell": "<script>|x", "flags": [], "overall": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 4, "clusters": 4},
           "tasks": {}, "difference": None, "seconds_per_image": None}  # fmt: skip
    text = ablation.markdown([row], "a note")
    assert "<script>" not in text
    assert "\\|x" in text


# -------------------------------------------------------------------------------------------------------------- images
def test_a_bomb_in_a_folder_is_one_failure(tmp_path, capsys):
    folder = tmp_path / "images"
    for number in (0, 1):
        (folder / f"0000{number}" / "samples").mkdir(parents=True)
    Image.new("1", (13_000, 13_000)).save(folder / "00000" / "samples" / "0000.png")
    Image.new("RGB", (64, 64)).save(folder / "00001" / "samples" / "0000.png")
    assert (folder / "00000" / "samples" / "0000.png").stat().st_size < 100_000
    own = write(tmp_path / "p.jsonl", ONE, {**ONE, "prompt": "another dog"})
    words = ["--model", f"folder:{folder}", "--prompts", str(own), "--images-per-prompt", "1"]
    plan = cli.make_plan(suite.SUITE, [*words, *TOOLS])
    run(make_plan(tmp_path / "run", *words, generator=FolderGenerator(plan.folder)))
    (failure,) = lines(tmp_path / "run" / "failures.jsonl")
    assert "Expected at most 89 million pixels" in failure["error"]
    assert (
        "note: 1 of 2 images has no score, see failures.jsonl (00000/0: 00000/samples/0000" in capsys.readouterr().err
    )


def test_an_import_follows_no_link_out_of_its_folder(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (tmp_path / "images" / "a.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "images" / "b.png").symlink_to("c.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "c.png")
    row = Row(values={"image": "a.png", "other": "b.png"}, file=tmp_path / "rows.jsonl", place="line 1")
    with pytest.raises(DataError, match=r"a\.png is a link to .*secret\.png"):
        row.image(("image",), tmp_path / "images")
    assert row.image(("other",), tmp_path / "images") == tmp_path / "images" / "b.png"


def test_six_images_that_all_fail_are_no_success(tmp_path, capsys):
    class Fails(OracleGenerator):
        def generate(self, samples):
            raise RuntimeError("no paint")

    def work():
        plan = make_plan(tmp_path / "run", "--limit", "3", generator=Fails())
        return cli.show(suite.SUITE, run(plan), tmp_path / "run")

    assert cli.run_as("geneval", work) == 2
    assert "generate failed on 6 samples in a row: RuntimeError: no paint" in capsys.readouterr().err
    assert not (tmp_path / "run" / "scores.json").exists()


def test_many_blanks_are_read():
    # What is quadratic would take minutes.
    chain = Chain.parse(f"a dog <|box_start|>(0,0),(9,9)<|box_end|> (red){' ' * 200_000}and grass")
    assert [region.text for region in chain.add("a cat", (0, 0, 5, 5)).remove(0).regions] == ["a cat"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_device_on_stdout_is_one_line():
    words = [sys.executable, "-m", "evals.geneval", "--model", "oracle", "--limit", "2", "--dry-run"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            words, stdout=full, stderr=subprocess.PIPE, text=True, env=small_environment(), check=False
        )
    assert done.returncode == 2
    assert "No space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 1
