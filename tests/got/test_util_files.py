"""One way to write files, to keep logs and to own a folder, for every command."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from got.util.errors import UserError
from got.util.files import (
    FolderLock,
    alone_in,
    append_lines,
    numbered_lines,
    read_lines,
    read_text,
    recorded,
    replacing,
    replacing_folder,
    write_atomic,
    write_json,
    write_lines,
)

ROOT = Path(__file__).resolve().parents[2]
HOLDS = """
import sys, time
from pathlib import Path
from got.util.files import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("durable", [False, True])
def test_an_error_while_writing_leaves_the_old_file_alone(tmp_path, durable):
    path = tmp_path / "new" / "a.txt"
    write_atomic(path, "old", durable=durable)
    with pytest.raises(KeyboardInterrupt), replacing(path, durable=durable) as part:  # noqa: PT012
        part.write_text("half of the n")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert [found.name for found in path.parent.iterdir()] == ["a.txt"]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "model"
    with replacing_folder(path) as part:
        (part / "weights").write_text("old")
    with pytest.raises(OSError, match="full"), replacing_folder(path) as part:  # noqa: PT012
        (part / "weights").write_text("ne")
        raise OSError("full")
    assert (path / "weights").read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["model"]


def test_json_that_other_languages_cannot_read_is_an_error_before_the_file_is_touched(tmp_path):
    write_json(tmp_path / "a.json", {"a": "é"})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert (tmp_path / "a.json").read_bytes() == b'{\n  "a": "\xc3\xa9"\n}\n'


@pytest.mark.parametrize(
    ("tail", "kept", "after"),
    [
        (b'{"n": 2', [1], b'{"n": 1}\n'),
        (b'{"n": 2}', [1, 2], b'{"n": 1}\n{"n": 2}\n'),  # nothing but its line end was cut off
        (b"", [1], b'{"n": 1}\n'),
    ],
)
def test_a_log_that_a_kill_has_cut_is_appended_to_on_a_line_of_its_own(tmp_path, tail, kept, after):
    log = tmp_path / "log.jsonl"
    log.write_bytes(b'{"n": 1}\n' + tail)
    assert [record["n"] for record in recorded(log)] == kept
    assert log.read_bytes() == after
    append_lines(log, [{"n": 9}], durable=False)
    assert read_lines(log) == ([{"n": n} for n in (*kept, 9)], 0)


def test_a_line_that_another_process_is_writing_is_waited_for_and_not_cut(tmp_path):
    log, begun = tmp_path / "log.jsonl", threading.Event()
    append_lines(log, [{"n": 1}], durable=False)

    def write():  # a lock of one open file stands against every other, of this process or another
        with log.open("ab", buffering=0) as file, alone_in(file):
            file.write(b'{"n": ')
            begun.set()
            time.sleep(0.3)
            file.write(b"2}\n")

    writer = threading.Thread(target=write)
    writer.start()
    assert begun.wait(10)
    assert [record["n"] for record in recorded(log)] == [1, 2]
    writer.join()
    assert read_lines(log) == ([{"n": 1}, {"n": 2}], 0)


def test_two_processes_keep_all_lines_of_a_log_that_others_open_and_mend(tmp_path):
    log = tmp_path / "log.jsonl"
    log.touch()
    script = (
        "import pathlib, sys; from got.util.files import append_lines, recorded\n"
        "log = pathlib.Path(sys.argv[1])\n"
        "for n in range(200):\n"
        "    append_lines(log, [{'who': sys.argv[2], 'n': n}], durable=False)\n"
        "    n % 20 or sum(1 for _ in recorded(log))\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", script, str(log), who], cwd=ROOT) for who in "ab"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    found, damaged = read_lines(log)
    assert (sorted((one["who"], one["n"]) for one in found), damaged) == ([(w, n) for w in "ab" for n in range(200)], 0)


def test_damage_inside_a_log_is_named_and_nothing_is_cut(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_bytes(b'{"n": 1}\nnonsense\n{"n": 2}\n')
    with pytest.raises(UserError, match=r"log\.jsonl line 2 is not valid JSON"):
        list(recorded(log))
    assert read_lines(log) == ([{"n": 1}, {"n": 2}], 1)
    assert log.read_bytes().count(b"\n") == 3


def test_only_a_line_feed_ends_a_line(tmp_path):
    path, text = tmp_path / "lines.jsonl", "a\u2028b\x85c\x0bd\r e"
    write_lines(path, [{"text": text}])
    assert read_lines(path) == ([{"text": text}], 0)
    path.write_bytes(b"\xef\xbb\xbf" + f"{text}\r\n\n  \nlast".encode())
    assert list(numbered_lines(path, ValueError)) == [(1, text), (4, "last")]


@pytest.mark.parametrize("read", [read_text, lambda path, error: list(numbered_lines(path, error))])
def test_a_name_with_a_nul_cannot_be_read(read):
    with pytest.raises(UserError, match=r"^Cannot read a\0b: embedded null byte$"):
        read(Path("a\0b"), UserError)


def test_a_folder_is_free_again_after_kill_9(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        for _ in range(2):  # a refused process must not wipe out whose folder it is
            with pytest.raises(UserError, match=rf"is in use by another process \(pid {process.pid}\)"):
                FolderLock(tmp_path)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with FolderLock(tmp_path), pytest.raises(UserError, match=rf"\(pid {os.getpid()}\)"):
        FolderLock(tmp_path)
    FolderLock(tmp_path).release()
