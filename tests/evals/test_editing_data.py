"""Loaders on files of the published schemas, made here; broken ones included."""

import json

import numpy as np
import pytest
from edit_kit import encoded, pixels, turn_row, write

from evals.core.records import UserError
from evals.editing.datasets import file_image, inside
from evals.editing.published import REASON_EDIT_FOLDERS, load_emu_edit, load_imagenhub, load_reason_edit


# ------------------------------------------------------------------------------------------------------------- Emu-Edit
def emu_row(i, **changes):
    return {
        "instruction": f"make it {i}",
        "image": {"bytes": encoded(i), "path": None},
        "task": ("add", "local", "global")[i % 3],
        "split": "test",
        "idx": i,
        "hash": f"{i:032x}",
        "input_caption": f"a cat {i}",
        "output_caption": f"a dog {i}",
        **changes,
    }


def emu_folder(folder, count=7, generations=False, split="test", **changes):
    rows = [emu_row(i, **changes) for i in range(count)]
    if generations:
        rows = [{**row, "edited_image": {"bytes": encoded(1000 + i), "path": None}} for i, row in enumerate(rows)]
    half = count // 2
    write(folder / f"data/{split}-00000-of-00002-abc.parquet", rows[:half])
    write(folder / f"data/{split}-00001-of-00002-abc.parquet", rows[half:])
    return folder


def test_emu_edit_keeps_words_and_images_together_over_shards_and_row_groups(tmp_path):
    loaded = load_emu_edit(str(emu_folder(tmp_path)), rows=7)
    assert [case.instruction for case in loaded.cases] == [f"make it {i}" for i in range(7)]
    for order in (range(7), reversed(range(7))):
        for i in order:
            assert np.array_equal(np.asarray(loaded.cases[i].source.load()), pixels(encoded(i)))
    first = loaded.cases[0]
    assert (first.id, first.category, first.captions) == ("add_0", "add", {"source": "a cat 0", "target": "a dog 0"})
    assert first.target is None
    assert first.released is None
    assert loaded.describe()["licence"] == "CC-BY-NC-4.0"


def test_the_swapped_split_of_the_generations_is_found_by_its_size(tmp_path):
    """At the published sizes: 3,589 test rows lie under the name validation."""
    tiny = encoded(0, size=(1, 1))
    row = emu_row(0, image={"bytes": tiny, "path": None}, edited_image={"bytes": tiny, "path": None})
    for name, count in (("validation", 3589), ("test", 2022)):
        write(tmp_path / f"{name}-00000-of-00001-x.parquet", [{**row, "idx": i} for i in range(count)], group=4000)
    loaded = load_emu_edit(str(tmp_path))
    assert len(loaded.cases) == 3589
    assert loaded.notes[0] == "rows of split 'validation'"
    assert loaded.cases[3588].released.load().size == (1, 1)
    assert "own results" in loaded.origin.name


def test_filtered_drops_equal_captions_and_says_how_many(tmp_path):
    rows = [emu_row(i) for i in range(6)]
    rows[1].update(input_caption="A train station in city", output_caption="a train station in city. ")
    rows[2].update(output_caption="a cat 2")
    rows[3].update(output_caption="a train station in city")
    write(tmp_path / "test.parquet", rows)
    every, some = (load_emu_edit(str(tmp_path / "test.parquet"), variant, rows=6) for variant in ("all", "filtered"))
    assert [len(every.cases), len(some.cases)] == [6, 4]
    assert some.dropped == {"captions are equal": 2}
    assert every.ids_sha256 != some.ids_sha256
    assert "2 cases have the placeholder caption 'a train station in city'" in every.notes
    assert "1 case has the placeholder caption 'a train station in city'" in some.notes


def test_an_index_that_is_not_unique_is_told_apart_by_the_hash_but_a_row_twice_is_refused(tmp_path):
    rows = [emu_row(0), emu_row(0, hash="f" * 32)]
    write(tmp_path / "a.parquet", rows)
    assert len({case.id for case in load_emu_edit(str(tmp_path / "a.parquet"), rows=2).cases}) == 2
    write(tmp_path / "b.parquet", [emu_row(0), emu_row(0)])
    with pytest.raises(UserError, match="occurs twice"):
        load_emu_edit(str(tmp_path / "b.parquet"), rows=2)


def test_a_duplicated_or_missing_shard_is_refused(tmp_path):
    emu_folder(tmp_path)
    write(tmp_path / "data/test-00000-of-00002-def.parquet", [emu_row(0)])
    with pytest.raises(UserError, match="has piece 0 twice"):
        load_emu_edit(str(tmp_path), rows=7)
    for path in tmp_path.rglob("test-00000*"):
        path.unlink()
    with pytest.raises(UserError, match="is not complete: 1 pieces"):
        load_emu_edit(str(tmp_path), rows=4)


def test_a_set_of_another_size_is_ones_own_and_never_has_the_published_name(tmp_path):
    loaded = load_emu_edit(str(emu_folder(tmp_path / "mine", task="colour")))
    assert (loaded.origin.own, len(loaded.cases)) == (True, 7)
    assert loaded.origin.name == "own data (mine), in the form of Emu-Edit test set"
    assert loaded.notes[0] == "own data: 7 cases, not the 3,589 published ones; no number is the benchmark's"
    assert loaded.describe()["own"] is True
    assert "own" not in load_emu_edit(str(emu_folder(tmp_path / "whole")), rows=7).describe()


def test_of_several_splits_none_is_guessed(tmp_path):
    emu_folder(tmp_path, split="test")
    emu_folder(tmp_path, count=4, split="validation")
    with pytest.raises(UserError, match="expected one split of 3589 rows but got test 7, validation 4; --data with a"):
        load_emu_edit(str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"task": "colour"}, "expected a task among"), ({"instruction": "  "}, "no instruction")],
)
def test_a_bad_row_is_named(tmp_path, changes, words):
    write(tmp_path / "x.parquet", [emu_row(0), emu_row(1, **changes)])
    with pytest.raises(UserError, match=f"row 1: {words}"):
        load_emu_edit(str(tmp_path / "x.parquet"), rows=2)


def test_what_is_no_parquet_or_lacks_a_column_is_refused(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        load_emu_edit(str(tmp_path))
    row = emu_row(0)
    del row["input_caption"]
    write(tmp_path / "x.parquet", [row])
    with pytest.raises(UserError, match="expected columns input_caption but it has only hash"):
        load_emu_edit(str(tmp_path), rows=1)
    with pytest.raises(UserError, match="no such file or folder; the hub has facebook/emu_edit_test_set"):
        load_emu_edit(str(tmp_path / "none"))
    with pytest.raises(UserError, match="variant all or filtered"):
        load_emu_edit(str(tmp_path), "some")


def test_a_broken_image_is_that_cases_failure_only(tmp_path):
    rows = [emu_row(0), emu_row(1, image={"bytes": b"\xff\xd8 cut", "path": None}), emu_row(2, image=None)]
    write(tmp_path / "x.parquet", rows)
    cases = load_emu_edit(str(tmp_path / "x.parquet"), rows=3).cases
    assert cases[0].source.load().size == (8, 6)
    with pytest.raises(ValueError, match=r"x\.parquet row 1 image: Expected an image but the file is none"):
        cases[1].source.load()
    with pytest.raises(ValueError, match="row 2: no image in column image"):
        cases[2].source.load()


def test_a_path_in_a_cell_does_not_leave_the_folder(tmp_path):
    (tmp_path / "secret.png").write_bytes(encoded(5))
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "own.png").write_bytes(encoded(6))
    paths = ["own.png", "../secret.png", str(tmp_path / "secret.png")]
    write(folder / "x.parquet", [emu_row(i, image={"bytes": None, "path": path}) for i, path in enumerate(paths)])
    cases = load_emu_edit(str(folder), rows=3).cases
    assert np.array_equal(np.asarray(cases[0].source.load()), pixels(encoded(6)))
    for case in cases[1:]:
        with pytest.raises(ValueError, match="lies outside"):
            case.source.load()


@pytest.mark.parametrize("name", ["", ".", "..", "a/../../secret.png", "..\\secret.png", "/etc/passwd", "own\0.png"])
def test_no_name_leads_out_of_a_folder(tmp_path, name):
    (tmp_path / "secret.png").write_bytes(encoded(5))
    (tmp_path / "set" / "a").mkdir(parents=True)
    with pytest.raises(UserError, match="lies outside"):
        inside(tmp_path / "set", name)


def test_links_of_a_hubs_cache_are_followed(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "0a1b").write_bytes(encoded(6))
    snapshot = tmp_path / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (snapshot / "own.png").symlink_to("../../blobs/0a1b")
    assert np.array_equal(np.asarray(file_image(snapshot, "own.png").load()), pixels(encoded(6)))


# -------------------------------------------------------------------------------------------------------------- the hub
def test_a_hub_that_moved_on_is_refused_unless_its_commit_is_named(hub):
    hub.answer = {"id": "facebook/emu_edit_test_set", "sha": "c" * 40}
    with pytest.raises(UserError, match="has changed: its commit is cccccccccccc, this loader was written for b31936a"):
        load_emu_edit()
    hub.answer = None
    with pytest.raises(UserError, match="cannot be had from the hub"):
        load_emu_edit("facebook/emu_edit_test_set@main")


@pytest.fixture
def hub(monkeypatch):
    """A server of its own in the hub's place: it knows one data set."""
    import http.server
    import threading

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps(server.answer or {}).encode()
            self.send_response(200 if server.answer else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *words):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.answer = None
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


# ------------------------------------------------------------------------------------------------------------ ImagenHub
def test_imagenhub_takes_the_filtered_split_and_the_ids_of_the_human_ratings(tmp_path):
    write(tmp_path / "data/filtered-00000-of-00001.parquet", [turn_row("151", 1), turn_row("34", 2, 9)])
    write(tmp_path / "data/dev-00000-of-00001.parquet", [turn_row("1", 1)])
    loaded = load_imagenhub(str(tmp_path), rows=2)
    assert [case.id for case in loaded.cases] == ["sample_151_1", "sample_34_2"]
    case = loaded.cases[1]
    assert case.captions == {"source": "before", "target": "after", "target_local": "part"}
    assert case.group == "34"
    assert case.mask.load_mask().sum() == 12
    assert np.array_equal(np.asarray(case.target.load()), pixels(encoded(10)))
    own = load_imagenhub(str(tmp_path))
    assert (own.origin.own, own.variant, len(own.cases)) == (True, "filtered", 2)
    assert own.notes == ("own data: 2 cases, not the 179 published ones; no number is the benchmark's",)
    with pytest.raises(UserError, match="expected one split of 249 rows but got dev 1, filtered 2"):
        load_imagenhub(str(tmp_path), "extra")
    with pytest.raises(UserError, match="split among filtered, dev, extra"):
        load_imagenhub(str(tmp_path), "test")


# ---------------------------------------------------------------------------------------------------------- Reason-Edit
@pytest.fixture
def reason_edit(tmp_path):
    for number, name in enumerate(REASON_EDIT_FOLDERS):
        folder = tmp_path / name
        folder.mkdir()
        lines = []
        for i in range(3):
            (folder / f"{i:03d}.png").write_bytes(encoded(10 * number + i))
            (folder / f"{i:03d}_mask.jpg").write_bytes(encoded(0, "JPEG"))
            lines.append(f"Replace thing {i} by a bench. CLIP: bench {i}")
        (folder / "text.txt").write_text("\n".join(lines) + "\n\n")
    return tmp_path


def test_reason_edit_has_six_categories_with_image_mask_and_line_paired(reason_edit):
    loaded = load_reason_edit(reason_edit)
    assert [case.category for case in loaded.cases[::3]] == list(REASON_EDIT_FOLDERS)
    case = loaded.cases[16]
    assert case.id == "6-Reasoning_001"
    assert case.instruction == "Replace thing 1 by a bench."
    assert case.captions == {"object": "bench 1"}
    assert np.array_equal(np.asarray(case.source.load()), pixels(encoded(51)))
    assert "own data: 18 cases, not the 219 published ones; no number is the benchmark's" in loaded.notes
    assert loaded.origin.own


def test_the_released_name_of_the_reasoning_folder_is_known(reason_edit):
    """The official script skips it without a word."""
    for name in ("6-Reasoning-231115", "Reasoning-231115"):
        next(path for path in reason_edit.iterdir() if "Reasoning" in path.name).rename(reason_edit / name)
        assert sum(case.category == "6-Reasoning" for case in load_reason_edit(reason_edit).cases) == 3


def empty(folder):
    for path in [*folder.glob("*.png"), *folder.glob("*.jpg")]:
        path.unlink()


BREAKS = {
    "mask": lambda folder: (folder / "001_mask.jpg").unlink(),
    "picture": lambda folder: (folder / "002.png").unlink(),
    "swapped": lambda folder: (folder / "001_mask.jpg").rename(folder / "1_mask.jpg"),
    "line": lambda folder: (folder / "text.txt").write_text("a CLIP: b\n"),
    "marker": lambda folder: (folder / "text.txt").write_text("a CLIP: b\nno marker\nc CLIP: d\n"),
    "texts": lambda folder: (folder / "more.txt").write_text("a CLIP: b\n"),
    "encoding": lambda folder: (folder / "text.txt").write_bytes(b"\xff\xfe\x00a CLIP: b"),
    "folder": lambda folder: folder.rename(folder.with_name("other")),
    "empty": empty,
}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("mask", "1 stems lack .* the first is '001'"),
        ("picture", "the first is '002'"),
        ("swapped", "2 stems lack"),
        ("line", "3 images but 1 lines"),
        ("marker", r"text\.txt line 2: expected INSTRUCTION CLIP: OBJECT but got 'no marker'"),
        ("texts", "expected one text file but got 2"),
        ("encoding", "not UTF-8"),
        ("folder", "expected one folder 4-Color but got 0"),
        ("empty", "no images"),
    ],
)
def test_a_reason_edit_folder_that_does_not_add_up_is_refused(reason_edit, how, words):
    BREAKS[how](reason_edit / "4-Color")
    with pytest.raises(UserError, match=words):
        load_reason_edit(reason_edit)


def test_names_without_leading_zeros_are_pointed_out(reason_edit):
    folder = reason_edit / "1-Left-Right"
    for i in range(3, 11):
        (folder / f"{i}.png").write_bytes(encoded(i))
        (folder / f"{i}_mask.jpg").write_bytes(encoded(0, "JPEG"))
    (folder / "text.txt").write_text("".join(f"line {i} CLIP: x\n" for i in range(11)))
    assert any("without leading zeros" in note for note in load_reason_edit(reason_edit).notes)
