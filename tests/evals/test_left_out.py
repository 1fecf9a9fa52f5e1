"""What cannot be read is told from what is not there: links to nothing, pointers, cases of which nothing tells."""

import dataclasses
import json
import shutil
import subprocess
import sys

import huggingface_hub.constants
import pytest
from folder_kit import CASES, put, tell
from PIL import Image

from evals.core.folder_listing import list_folder
from evals.core.records import UserError, unread
from evals.detectors.registry import make_detector
from evals.generators.folder_images import assign
from evals.generators.registry import GENERATORS, GeneratorOptions
from evals.geneval import suite
from evals.harness import cli
from got.__main__ import main as got_main
from got.util import hub, images, weight_files
from reports.__main__ import main as reports_main

DOG = {"tag": "zoo", "include": [{"class": "dog", "count": 1}], "prompt": "a dog"}
OPTIONS = GeneratorOptions(
    model="", argument="", checkpoint="mini", steps=1, semantic=True, spatial=True, reference=True, semantic_scale=None,
    spatial_scale=None, reference_scale=None, chain="own", device="cpu", dtype="float32",
)  # fmt: skip
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def call(capsys, *words):
    code = cli.main(suite.SUITE, [str(word) for word in words])
    out, err = capsys.readouterr()
    return code, json.loads(out.splitlines()[-1]) if out else None, out, err.splitlines()


def words_for(folder, output):
    return ("--model", f"folder:{folder}", "--prompts", "folder", "--detector", "icon", "--output", output,
            "--images-per-prompt", "1", "--device", "cpu")  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """Four sub-folders with an image each: told, a link to nothing, no JSON, nothing at all."""
    root = tmp_path / "images"
    for number in range(4):
        put(root / str(number) / "samples" / "0.png")
    tell(root, "0", DOG)
    (root / "1/metadata.jsonl").symlink_to(tmp_path / "blobs" / "gone")
    (root / "2/metadata.jsonl").write_text("{")
    return root


def test_cases_of_which_nothing_tells_are_counted_everywhere(folder, tmp_path, capsys):
    code, headline, table, said = call(capsys, *words_for(folder, tmp_path / "run"))
    assert (code, headline["images"], headline["left_out"]) == (0, 1, 3)
    scores = json.loads((tmp_path / "run/scores.json").read_text())
    assert scores["left_out"] == ["1", "2", "3"]
    left_out = "sub-folders without a metadata.jsonl that can be read, left out: 3 (1, 2, 3)"
    assert left_out in " ".join(table.split())
    assert f"{left_out}; {folder}/1/metadata.jsonl: a link to nothing; expected one JSON object" in said[0]
    assert said[-1] == "note: 3 cases are in no score, because nothing tells what they ask for (1, 2, 3)"
    shutil.rmtree(folder)
    code, again, _, said = call(capsys, "--output", tmp_path / "run", "--from", "verdict")
    assert (code, again["left_out"]) == (0, 3)


def test_where_nothing_is_left_nothing_is_scored(folder, tmp_path, capsys):
    (folder / "0/metadata.jsonl").unlink()
    code, headline, _, said = call(capsys, *words_for(folder, tmp_path / "run"))
    assert (code, headline) == (1, None)
    assert "nothing was scored: --prompts folder: none of 2 metadata.jsonl can be read" in said[-1]
    assert "1/metadata.jsonl: a link to nothing" in said[-1]


def test_with_genevals_prompts_a_folder_goes_by_its_number_where_its_metadata_cannot_be_read(folder):
    tell(folder, "0", CASES[0].metadata)
    found = assign(list_folder(folder), CASES, CASES[:4], 1)
    assert sorted(found.files) == [case.id for case in CASES[:4]]
    assert found.counts["folders_with_damaged_metadata"] == 2
    assert any("taken by their names: 2 (1, 2); 1/metadata.jsonl, a link to nothing" in note for note in found.notes)


def test_what_stands_in_the_place_of_an_image_is_called_what_it_is(tmp_path):
    (tmp_path / "link.png").symlink_to(tmp_path / "gone")
    (tmp_path / "pointer.png").write_bytes(POINTER)
    (tmp_path / "page.png").write_bytes(b"\n<!DOCTYPE html><html></html>")
    (tmp_path / "empty.png").touch()
    for name, what in {
        "link": r"Cannot read .*link\.png: a link to nothing",
        "pointer": r"pointer\.png is a Git LFS pointer, not the image: `git lfs pull` fetches it",
        "page": r"page\.png is a web page: download the image itself",
        "empty": r"empty\.png is empty",
    }.items():
        with pytest.raises(images.ImageError, match=what):
            images.open_image(tmp_path / f"{name}.png")
    assert weight_files.fault(tmp_path / "link.png") == "is a link to nothing"


def test_the_root_of_a_hubs_cache_is_called_so(tmp_path):
    root = tmp_path / "models--owner--name"
    newest = root / "snapshots" / "0a1b2c"
    (newest / "00000/samples").mkdir(parents=True)
    (root / "blobs").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    (newest / "00000/samples/0000.png").symlink_to(tmp_path / "x.png")
    said = f"it is the root of a hub's cache, whose files are in .*{newest}"
    with pytest.raises(UserError, match=said):
        list_folder(root)
    (tmp_path / "x.png").rename(root / "blobs/x")
    with pytest.raises(UserError, match=f"it is a hub's cache, and files are in folder:{newest}"):
        list_folder(tmp_path)
    with pytest.raises(hub.CheckpointError, match=said):
        hub.read_index(root)
    assert str(newest) in weight_files.why(root, OSError("no model_index.json"))


def test_prompts_that_are_not_read_whole_are_counted_by_prompt():
    kind = "not in the model's vocabulary"
    lines = [{"case": str(number % 3), "index": number, "warnings": [f"{kind}: kraken"]} for number in range(6)]
    assert unread([*lines, {"case": "9", "warnings": ["the chain did not end"]}]) == {
        kind: [f"{number}: kraken" for number in range(3)]
    }


@pytest.mark.parametrize("name", ["nosuch", "no/such"])
def test_a_model_that_cannot_be_had_is_asked_for_once(name, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    asked = []

    def refuse(self, repo, **options):
        asked.append((repo, options["timeout"]))
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    for build in (
        lambda: make_detector(f"hf:{name}"),
        lambda: GENERATORS["diffusers"].build(dataclasses.replace(OPTIONS, argument=name)),
    ):
        with pytest.raises(
            UserError, match=rf"no folder .*{name}, and not to be had from the hub \(OSError: no network"
        ):
            build()
    assert asked == [(name, 5.0)] * 2
    (tmp_path / "cache" / f"models--{name.replace('/', '--')}" / "snapshots" / "0a").mkdir(parents=True)
    assert hub.unreachable(name) is None, "what is in the cache needs no network"


def test_commands_refuse_what_is_no_checkpoint_before_torch_is_loaded(tmp_path):
    script = (
        "import sys\nfrom got.__main__ import main\n"
        f"code = main(['studio', '--checkpoint', {str(tmp_path)!r}, '--output', {str(tmp_path / 's')!r}])\n"
        "print(code, sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "2 []\n"
    assert done.stderr == f"error: {tmp_path} has no model_index.json, so it is not a saved pipeline\n"


def test_memory_is_of_the_published_size_alone(capsys):
    for words in (["mini"], ["--checkpoint", "mini"]):
        assert got_main(["info", "--memory", *words]) == 2
        said = "error: --memory is of GoT-6B at its published size and takes no checkpoint but got mini\n"
        assert capsys.readouterr().err == said


def test_reports_say_what_is_missing(tmp_path, capsys):
    for words in ({}, {"format": 1}, {"format": 1, "cases": {}}):
        (tmp_path / "base.json").write_text(json.dumps(words))
        assert reports_main(["power", "--baseline", str(tmp_path / "base.json")]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert f"{tmp_path}/base.json is no baseline: it has no '" in said
        assert said.endswith("; `python -m reports baseline RUN --output FILE` makes one")
    assert reports_main(["table", "nosuch/results.jsonl"]) == 2
    said = (
        "nosuch/results.jsonl is missing; expected the --output of a finished run, or a public scorer's results.jsonl"
    )
    assert capsys.readouterr().err.endswith(f"error: {said}\n")
