"""Chain datasets on disk: nothing is lost, any order can be resumed, and no crash harms what was there."""

import gc
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import pytest
from data_kit import DATASETS, as_bytes, contents, make_example
from hypothesis import given
from PIL import Image

from got.data.records import DataError, Example
from got.data.storage import FORMATS, Writer, count, format_of, read

COUNT = 60


@pytest.fixture(scope="module", params=FORMATS)
def stored(request, tmp_path_factory):
    """Sixty examples; Parquet files and shards of seven."""
    folder = tmp_path_factory.mktemp(request.param)
    with Writer(folder, request.param, per_file=7) as writer:
        assert all(writer.add(make_example(number)) for number in range(COUNT))
    return folder


def ids(examples):
    return [example.id for example in examples]


# --- what is written is read -----------------------------------------------------------------------------------------


def test_examples_come_back_whole_and_in_order(stored):
    assert [contents(example) for example in read(stored)] == [contents(make_example(n)) for n in range(COUNT)]
    assert [example.task for example in read(stored)][:3] == ["text-to-image", "edit", "multi-turn"]


@given(DATASETS)
def test_any_dataset_survives_a_journey_through_all_formats(examples):
    with tempfile.TemporaryDirectory() as name:
        current, wanted = examples, [contents(example) for example in examples]
        for number, form in enumerate((*FORMATS, "folder")):
            place = Path(name, str(number))
            with Writer(place, form, per_file=2) as writer:
                for example in current:
                    writer.add(example)
            if not examples and form != "folder":
                assert format_of(place) is None
                return
            assert [contents(example) for example in read(place)] == wanted
            current = read(place)


def test_one_file_of_a_dataset_can_be_read_alone(stored):
    files = sorted(stored.glob("*.parquet")) or sorted(stored.glob("*.tar"))
    if files:
        assert ids(read(files[1])) == [f"e-{n:04d}" for n in range(7, 14)]
    else:
        assert ids(read(stored / "examples.jsonl")) == [f"e-{n:04d}" for n in range(COUNT)]


def test_the_datasets_library_shows_the_images_of_parquet_files(tmp_path):
    datasets = pytest.importorskip("datasets")
    with Writer(tmp_path / "set", "parquet") as writer:
        for number in range(3):
            writer.add(make_example(number))
    files = str(tmp_path / "set" / "*.parquet")
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    example = make_example(2)
    assert isinstance(loaded[2]["source"], Image.Image)
    with Image.open(io.BytesIO(as_bytes(example.steps[1].target))) as truth:
        assert loaded[2]["steps"][1]["target"].tobytes() == truth.tobytes()
    assert loaded[2]["prompt"] == example.prompt
    assert loaded[0]["source"] is None


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # that library leaves closing to the collector
def test_the_webdataset_library_reads_our_shards_and_we_read_its(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    with Writer(tmp_path / "ours", "webdataset") as writer:
        for number in range(4):
            writer.add(make_example(number))
    (shard,) = (tmp_path / "ours").glob("*.tar")
    samples = list(webdataset.WebDataset(str(shard), shardshuffle=False))
    gc.collect()
    assert [sample["__key__"] for sample in samples] == [f"e-{n:04d}" for n in range(4)]
    assert samples[1]["source.png"] == make_example(1).source
    (tmp_path / "theirs").mkdir()
    with webdataset.TarWriter(str(tmp_path / "theirs" / "a.tar")) as sink:
        for sample in samples:
            sink.write({key: value for key, value in sample.items() if key in ("__key__",) or not key.startswith("_")})
    assert [contents(example) for example in read(tmp_path / "theirs")] == [contents(make_example(n)) for n in range(4)]


def test_a_shard_that_was_packed_anew_is_added_to_without_doubles(tmp_path):
    """tar puts "./" before every name."""
    examples = [make_example(number) for number in range(3)]
    with Writer(tmp_path / "set", "webdataset") as writer:
        assert [writer.add(example) for example in examples] == [True] * 3
    (shard,) = (tmp_path / "set").glob("*.tar")
    (tmp_path / "there").mkdir()
    with tarfile.open(shard) as tar:
        for member in tar:
            (tmp_path / "there" / member.name).write_bytes(tar.extractfile(member).read())
    with tarfile.open(shard, "w") as tar:
        for path in sorted((tmp_path / "there").iterdir()):
            tar.add(path, f"./{path.name}")
    with Writer(tmp_path / "set", "webdataset") as writer:
        assert [writer.add(example) for example in examples] == [False] * 3
    assert ids(read(tmp_path / "set")) == [example.id for example in examples]


# --- order -----------------------------------------------------------------------------------------------------------


def test_a_shuffled_order_depends_on_seed_and_epoch_alone(stored):
    first = ids(read(stored, shuffle_seed=1))
    assert sorted(first) == ids(read(stored))
    assert first != ids(read(stored))
    assert first == ids(read(stored, shuffle_seed=1))
    assert len({tuple(first), *(tuple(ids(read(stored, shuffle_seed=1, epoch=e))) for e in (1, 2))}) == 3
    assert first != ids(read(stored, shuffle_seed=2))
    # Neighbours in a file are not neighbours in the order, whatever the format.
    neighbours = sum(int(b[2:]) - int(a[2:]) == 1 for a, b in itertools.pairwise(first))
    assert neighbours < COUNT / 4


@pytest.mark.parametrize("seed", [None, 5])
def test_reading_goes_on_from_any_position_as_without_a_break(stored, seed):
    whole = ids(read(stored, shuffle_seed=seed, epoch=3))
    for start in (0, 1, 6, 7, 8, 33, COUNT - 1, COUNT, COUNT + 5):
        assert ids(read(stored, shuffle_seed=seed, epoch=3, start=start)) == whole[start:]


@pytest.mark.parametrize("parts", [1, 2, 5, 16])
def test_parts_are_disjoint_and_complete(stored, parts):
    """With sixteen parts there are more of them than files: then single examples are dealt out."""
    dealt = [ids(read(stored, shuffle_seed=2, part=(part, parts))) for part in range(parts)]
    assert sorted(itertools.chain.from_iterable(dealt)) == ids(read(stored))
    assert all(dealt)
    for part in range(parts):
        assert count(stored, shuffle_seed=2, part=(part, parts)) == len(dealt[part])
        assert ids(read(stored, shuffle_seed=2, part=(part, parts), start=2)) == dealt[part][2:]


def test_reading_holds_no_more_than_a_buffer(tmp_path):
    """Of forty shards, the first examples of a shuffled order need only some."""
    with Writer(tmp_path, "webdataset", per_file=100) as writer:
        for number in range(4000):
            writer.add(Example(**{**_fields(make_example(0, task=0)), "id": f"n{number}"}))
    examples = read(tmp_path, shuffle_seed=0)
    first = [next(examples) for _ in range(100)]
    shards = {int(example.id[1:]) // 100 for example in first}
    assert len(shards) <= 12  # 1000 examples of buffer are ten shards
    examples.close()


def _fields(example):
    return {name: getattr(example, name) for name in ("prompt", "steps", "provenance", "source", "extra")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"start": -1}, "start"), ({"part": (2, 2)}, "part from 0 to 1"), ({"part": (-1, 2)}, "part from 0 to 1")],
)
def test_arguments_out_of_range_are_refused(stored, arguments, message):
    with pytest.raises(ValueError, match=message):
        read(stored, **arguments)


def test_places_without_a_dataset_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(DataError, match="expected a dataset"):
        read(tmp_path)
    (tmp_path / "a.tar").touch()
    (tmp_path / "a.parquet").touch()
    with pytest.raises(DataError, match="parquet and webdataset"):
        read(tmp_path)


# --- writing again ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_writing_again_adds_only_what_is_missing(tmp_path, form):
    for last in (5, 9, 9):
        with Writer(tmp_path, form, per_file=4) as writer:
            before = set(writer.known_ids())
            added = [writer.add(make_example(number)) for number in range(last)]
            assert [not new for new in added] == [make_example(n).id in before for n in range(last)]
    assert [contents(example) for example in read(tmp_path)] == [contents(make_example(n)) for n in range(9)]


@pytest.mark.parametrize("form", FORMATS)
def test_what_was_added_before_an_error_is_kept(tmp_path, form):
    with pytest.raises(KeyboardInterrupt), Writer(tmp_path, form) as writer:  # noqa: PT012 - the error is the point
        writer.add(make_example(0))
        writer.add(make_example(1))
        raise KeyboardInterrupt
    assert ids(read(tmp_path)) == ["e-0000", "e-0001"]


def test_formats_are_not_mixed_and_two_writers_do_not_meet(tmp_path):
    with Writer(tmp_path, "webdataset") as writer:
        writer.add(make_example(0))
        with pytest.raises(DataError, match="is in use by another process"):
            Writer(tmp_path, "webdataset")
    with pytest.raises(DataError, match="it has webdataset"):
        Writer(tmp_path, "folder")
    with pytest.raises(ValueError, match="one of folder, parquet, webdataset"):
        Writer(tmp_path, "zip")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "../../etc"}, "id: expected ASCII letters"),
        ({"id": "a" * 300}, "id: expected at most 200"),
        ({"extra": {"a": float("nan")}}, "JSON-able"),
        ({"extra": {"a": {1, 2}}}, "JSON-able"),
        ({"prompt": "half a pair \ud800"}, "JSON-able"),
        ({"steps": ()}, "steps"),
        ({"source": Path("missing.png")}, "cannot read missing.png"),
    ],
)
@pytest.mark.parametrize("form", FORMATS)
def test_what_no_format_can_hold_is_refused_and_harms_nothing(tmp_path, form, change, message):
    with Writer(tmp_path, form) as writer:
        writer.add(make_example(0))
        with pytest.raises(DataError, match=message):
            writer.add(Example(**{"id": "b", **_fields(make_example(1)), **change}))
        writer.add(make_example(2))
    assert ids(read(tmp_path)) == ["e-0000", "e-0002"]


def test_a_full_disk_leaves_whole_lines(tmp_path):
    """A file-size limit stands for the disk: the error is raised, and every line that is there can be read."""
    code = (
        "import resource, signal, sys; sys.path[:0] = sys.argv[2:]\n"
        "from data_kit import make_example; from got.data.storage import Writer\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "with Writer(sys.argv[1]) as writer:\n"
        "    for number in range(100): writer.add(make_example(number))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), *_paths()], capture_output=True, text=True, check=False
    )
    assert "OSError" in done.stderr
    kept = ids(read(tmp_path))
    assert 2 <= len(kept) < 100
    with Writer(tmp_path) as writer:
        assert all(writer.add(make_example(number)) == (f"e-{number:04d}" not in kept) for number in range(12))
    assert ids(read(tmp_path)) == [f"e-{n:04d}" for n in range(12)]


# --- crashes ---------------------------------------------------------------------------------------------------------

_WRITE = """
import sys; sys.path[:0] = sys.argv[3:]
from data_kit import make_example
from got.data.storage import Writer
with Writer(sys.argv[1], sys.argv[2], per_file=10) as writer:
    for number in range(100000):
        writer.add(make_example(number))
"""


def _paths():
    return [str(Path(__file__).parents[1] / "kits"), str(Path(__file__).parents[2])]


@pytest.mark.parametrize("form", FORMATS)
def test_kill_9_while_writing_leaves_a_sound_dataset_that_can_be_gone_on_with(tmp_path, form):
    writing = subprocess.Popen([sys.executable, "-c", _WRITE, str(tmp_path), form, *_paths()])
    deadline = time.monotonic() + 120
    enough = {"folder": "images/*/*", "parquet": "data-*.parquet", "webdataset": "data-*.tar"}[form]
    while sum(1 for _ in tmp_path.glob(enough)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(writing.pid, signal.SIGKILL)
    assert writing.wait() == -signal.SIGKILL
    if form == "folder":  # a kill hardly ever falls within a single write: the power cut is made by hand
        with (tmp_path / "examples.jsonl").open("ab") as file:
            file.write(b'{"id": "e-9999", "prom')
    with Writer(tmp_path, form, per_file=10) as writer:
        there = len(writer.known_ids())
        for number in range(there + 15):
            assert writer.add(make_example(number)) == (number >= there)
    assert not list(tmp_path.glob("*.part"))
    assert [contents(e) for e in read(tmp_path)] == [contents(make_example(n)) for n in range(there + 15)]


@pytest.mark.parametrize("cut", [1, 20, -2])
def test_a_last_line_that_was_cut_off_is_taken_away(tmp_path, cut):
    with Writer(tmp_path) as writer:
        for number in range(3):
            writer.add(make_example(number))
    lines = (tmp_path / "examples.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "examples.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:cut])
    with pytest.raises(DataError, match=r"examples.jsonl:3: row: the line is cut off"):
        list(read(tmp_path))
    with Writer(tmp_path) as writer:
        assert sorted(writer.known_ids()) == ["e-0000", "e-0001"]
        writer.add(make_example(2))
    assert (tmp_path / "examples.jsonl").read_bytes() == b"".join(lines)


def test_a_last_line_without_its_end_is_kept_if_it_is_whole(tmp_path):
    with Writer(tmp_path) as writer:
        writer.add(make_example(0))
    path = tmp_path / "examples.jsonl"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert ids(read(tmp_path)) == ["e-0000"]
    with Writer(tmp_path) as writer:
        writer.add(make_example(1))
    assert ids(read(tmp_path)) == ["e-0000", "e-0001"]


def test_a_stale_index_of_shards_is_not_believed(tmp_path):
    with Writer(tmp_path, "webdataset", per_file=5) as writer:
        for number in range(10):
            writer.add(make_example(number))
    index = json.loads((tmp_path / "index.json").read_bytes())
    index["data-000000.tar"] = [1, 99]
    (tmp_path / "index.json").write_text(json.dumps(index))
    assert count(tmp_path) == 10
    (tmp_path / "index.json").write_text("no JSON")
    assert len(ids(read(tmp_path, shuffle_seed=0, start=4))) == 6
