"""How every command ends, and how it reads numbers."""

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from evals import __main__ as every
from evals import ablation
from evals.harness import cli as suites
from evals.harness.run_spec import SUITES
from got import __main__ as got
from got.data import __main__ as data
from got.util.cli import number, run_command, seed, whole
from got.util.errors import UserError
from got.util.files import write_atomic
from reports import __main__ as reports

ROOT = Path(__file__).resolve().parents[2]


def raises(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("work", "code", "out", "err"),
    [
        (lambda: {"a": 1}, 0, '{"a": 1}\n', ""),
        (lambda: {"ok": False}, 1, '{"ok": false}\n', ""),
        (lambda: None, 0, "", ""),
        (lambda: 7, 7, "", ""),
        (raises(UserError("two\nlines \x1b[31m")), 2, "", "kit: error: two lines [31m\n"),
        (raises(FileNotFoundError(2, "No such file", "a.png")), 2, "", "kit: error: a.png: No such file\n"),
        (raises(ValueError()), 2, "", "kit: error: ValueError\n"),
        (raises(KeyboardInterrupt()), 130, "", "kit: stopped\n"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), 130, "", "kit: stopped\n"),
    ],
)
def test_a_command_ends_in_one_line_and_its_own_status(work, code, out, err, capsys):
    before = signal.getsignal(signal.SIGTERM)
    assert run_command(work, "kit", interrupted="stopped") == code
    assert capsys.readouterr() == (out, err)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("hostile", ["a\0b", "a\ud800b", "\udfff"])
@pytest.mark.parametrize(
    ("main", "words"),
    [
        (lambda words: suites.main("multi_turn", words), ["--model", "oracle", "--output"]),
        (lambda words: suites.main("geneval", words), ["--model=oracle", "--prompts"]),
        (ablation.main, ["--grid", "components", "--output"]),
        (got.main, ["generate"]),
        (data.main, ["check"]),
        (reports.main, ["table"]),
        (reports.main, ["--output", "c"]),
    ],
)
def test_a_word_that_no_shell_passes_on_is_one_line(main, words, hostile, capsys):
    assert main([*words, hostile]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"no argument can hold a NUL character or a lone surrogate, as {hostile!a} does" in said


@pytest.mark.parametrize(
    ("main", "words", "meant"),
    [
        (lambda words: suites.main("geneval", words), ["--modle", "got"], "--model"),
        (lambda words: suites.main("geneval", words), ["--step=4"], "--steps"),
        (got.main, ["generate", "dogs", "--step", "4"], "--steps"),
        (reports.main, ["gate", "--run", "a", "--baseline", "b", "--max-dorp", "1"], "--max-drop"),
    ],
)
def test_a_flag_that_is_nearly_one_is_told(main, words, meant, capsys):
    assert main(words) == 2
    assert f"did you mean {meant}?" in capsys.readouterr().err


def test_a_flag_of_another_command_is_not_told_as_what_was_meant(capsys):
    assert got.main(["studio", "--scheduler", "ddim"]) == 2
    said = capsys.readouterr().err
    assert "unrecognized arguments: --scheduler ddim" in said
    assert "did you mean" not in said


def test_a_package_without_a_command_says_what_can_be_run(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["evals"])
    assert every.main() == 0
    said = capsys.readouterr().out
    assert all(f"python -m evals.{name}\n" in said for name in (*SUITES, "merge", "ablation", "judged"))
    assert reports.main([]) == 2
    assert "expected RUN... or a command, one of report, table, compare" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["table", "compare", "check"])
def test_a_link_to_itself_is_one_line(command, tmp_path, capsys):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    main = data.main if command == "check" else reports.main
    assert main([command, *[str(tmp_path / "loop")] * (2 if command == "compare" else 1)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(tmp_path / "loop") in said


def test_a_name_of_thousands_of_letters_is_cut_in_the_middle(capsys):
    assert data.main(["check", "n" * 5_000]) == 2
    assert capsys.readouterr().err == f"error: {'n' * 1_000} ... {'n' * 980}: File name too long\n"


def test_the_root_is_no_file_to_write(capsys):
    assert run_command(lambda: write_atomic(Path("/"), "x")) == 2
    assert capsys.readouterr().err == "error: /: Is a directory\n"


def test_what_is_no_mistake_of_the_person_keeps_its_traceback():
    with pytest.raises(ValueError, match="a bug"):
        run_command(raises(ValueError("a bug")), mistakes=(UserError,))


@pytest.mark.parametrize(
    "fault",
    [
        lambda: int("many"),  # of the interpreter, in our own code
        lambda: np.broadcast_shapes((2,), (3,)),
        lambda: torch.nn.Dropout(2.0),
        lambda: json.loads("{"),
    ],
)
def test_what_a_library_raises_is_a_fault_of_ours_and_keeps_its_traceback(fault):
    with pytest.raises(ValueError, match=r"."):
        run_command(fault)


def test_a_reader_that_leaves_is_no_error():
    code = "from got.util.cli import run_command; raise SystemExit(run_command(lambda: {'a': 'b' * 1_000_000}))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *((whole(), text) for text in ("0", "-1", "1.5", "many", "", "1_0", "9" * 20)),
        (whole(0, 9), "10"),
        (seed, str(2**63)),
        (whole(multiple_of=64), "65"),
        *((number(), text) for text in ("nan", "inf", "-inf", "x")),
        (number(0, 1), "1.01"),
        (number(0), "-0.5"),
    ],
)
def test_a_number_out_of_range_is_named_with_what_is_allowed(kind, text):
    with pytest.raises(argparse.ArgumentTypeError, match=rf"^expected .* but got {text}$"):
        kind(text)
