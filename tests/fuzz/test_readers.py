"""Readers under damaged and hostile input: each gives a result or one sentence; nothing else, and never another number.

A target takes a seed that is right, as bytes or words, and gets it broken in many ways (`fuzz_kit`).
"""

import io
import json
import random
import shutil
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import runner_kit
import torch
from fuzz_kit import INPUTS, survives, through
from PIL import Image
from safetensors.torch import save_file

from evals.ablation import read_grid
from evals.core import weights
from evals.core.folder_listing import list_folder
from evals.core.records import UserError
from evals.generators.folder_images import assign
from evals.geneval import prompts, suite
from evals.harness import cli
from evals.harness.runner import run
from got.data.importers.catalog import open_source
from got.data.importers.files import Options
from got.plan.chain import Chain
from got.util.images import ImageError, open_image
from got.util.parquet import ParquetTable
from got.vlm.json_replies import read_json
from reports import compare
from reports.frames import load_run
from reports.samples import load_samples


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    run(runner_kit.make_plan(folder, "--limit", "4"))
    return folder


# ------------------------------------------------------------------------------------------------------------ prompts
def test_prompt_lines(tmp_path):
    lines = "".join(json.dumps(line) + "\n" for line in prompts.generate()[::60])
    made = survives(through(tmp_path / "prompts.jsonl", prompts.read), lines.encode())
    for lines in made:
        assert all(line["tag"].strip() and line["include"] for line in lines)


def test_flags(tmp_path):
    words = [
        "--model",
        "oracle",
        "--limit",
        "4",
        "--threshold",
        "0.4",
        "--seed",
        "3",
        "--tasks",
        "counting",
        "--chain=own",
    ]

    def parse(data):
        given = [*data.decode("utf-8", "replace").split("\0"), "--output", str(tmp_path / "run")]
        try:
            return cli.make_plan(suite.SUITE, given)
        except SystemExit:  # --help
            return None

    survives(parse, "\0".join(words).encode(), (UserError, OSError))
    assert not (tmp_path / "run").exists()


def test_grids(tmp_path):
    grid = b'[cells]\nfull = ""\n"no boxes" = "--spatial off"\n[axes]\nsteps = [20, 10, 5]\n'
    survives(through(tmp_path / "grid.toml", lambda path: read_grid(str(path))), grid)


# --------------------------------------------------------------------------------------------------------------- runs
@pytest.mark.parametrize("name", ["observations.jsonl", "results.jsonl", "chains.jsonl", "scores.json", "run.json"])
def test_files_of_a_run(finished, tmp_path, name):
    folder = shutil.copytree(finished, tmp_path / "run")
    scores, samples = load_run(finished).scores, load_samples(load_run(finished))

    def read(data):
        (folder / name).write_bytes(data)
        found = load_run(folder)
        return found.scores, [sample.key + sample.outcome for sample in load_samples(found)]

    wanted = scores, [sample.key + sample.outcome for sample in samples]
    for found in survives(read, (finished / name).read_bytes()):
        assert found == wanted, "damage became another number"


@pytest.mark.parametrize("name", ["observations.jsonl", "results.jsonl", "chains.jsonl", "scores.json", "run.json"])
def test_files_of_an_older_run(finished, tmp_path, name):
    folder = runner_kit.as_older(shutil.copytree(finished, tmp_path / "run"))

    def read(data):
        (folder / name).write_bytes(data)
        return load_samples(load_run(folder))

    survives(read, (finished / name).read_bytes())


def test_observations_of_an_older_run_are_scored_or_named(finished, tmp_path):
    def lost(why):  # the line of an image is another's, and the image is made again
        raise UserError(why)

    folder = runner_kit.as_older(shutil.copytree(finished, tmp_path / "run"))
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    def score(data):
        for path, content in before.items():
            path.write_bytes(content)
        (folder / "hashes.txt").unlink(missing_ok=True)
        (folder / "observations.jsonl").write_bytes(data)
        plan = runner_kit.make_plan(folder, "--limit", "4", "--from", "verdict")
        return run(runner_kit.refusing(plan, "generator", "tools", why=lost))

    survives(score, (finished / "observations.jsonl").read_bytes(), inputs=INPUTS // 10)


def test_baselines(finished, tmp_path):
    outcomes = compare.of_run(load_run(finished))
    for found in survives(
        through(tmp_path / "baseline.json", compare.of_baseline), json.dumps(outcomes.as_dict(), indent=1).encode()
    ):
        assert found.right == outcomes.right, "damage became another verdict"


# ------------------------------------------------------------------------------------------------------------- chains
CHAIN = (
    "a photo of a red apple <|box_start|>(100,300),(450,700)<|box_end|> (red), two cups "
    "<|box_start|>(0,0),(90,90)<|box_end|> (green) and a dog "
    "<|box_start|>(550,300),(900,700)<|box_end|> (blue) on grass"
)


def test_chains():
    def edit(data):
        chain = Chain.parse(data.decode("utf-8", "replace"))
        assert chain.format() == chain.text
        if "<|" in chain.caption():
            return
        for change in (
            lambda: chain.add("a cat", (0, 0, 500, 500)),
            lambda: chain.remove(0),
            lambda: chain.replace(0, "two blue dogs"),
            lambda: chain.move(-1, (1, 2, 3, 4)),
        ):
            try:
                changed = change()
            except IndexError:
                continue
            assert Chain.parse(changed.text).text == changed.text

    survives(edit, CHAIN.encode(), (ValueError,))


def test_json_replies():
    reply = b'```json\n{"score": [8, 9.5], "reasoning": "the dog is red"}\n```'
    survives(lambda data: read_json(data.decode("utf-8", "replace")), reply, (ValueError,))


# ------------------------------------------------------------------------------------------------------ folders, images
def test_folders(tmp_path):
    cases = prompts.cases(prompts.generate()[:6])
    metadata = json.dumps(cases[1].metadata).encode()
    odd = [
        "00000",
        "1",
        "-1",
        "²",
        "0_0",
        "a b",
        "..x",
        "\x1b]0;x",
        "<b>",
        "9" * 200,
        "00005_1",
        "samples",
        "grid",
        "é",
    ]

    def read(data):
        rng, root = random.Random(data), tmp_path / "folder"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        for _ in range(rng.randint(1, 6)):
            place = root / rng.choice(odd)
            kind = rng.randrange(6)
            if kind == 0:
                place.with_name(f"{place.name}.png").write_bytes(data[:20])
            elif kind == 1 and not place.exists() and not place.is_symlink():
                place.symlink_to(rng.choice([place, tmp_path / "nowhere", root]))
            elif not place.exists() and not place.is_symlink():
                (place / "samples").mkdir(parents=True)
                (place / "metadata.jsonl").write_bytes(data)
                (place / "samples" / f"{rng.choice(odd)}.png").write_bytes(b"")
        listing = list_folder(root)
        return assign(listing, cases, cases[:4], 2)

    for found in survives(read, metadata, inputs=max(INPUTS // 3, 50)):
        assert all(path.is_relative_to(tmp_path / "folder") for some in found.files.values() for path in some.values())


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_images(form):
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x011A] = 6, "a phone's", 72.0
    more = {"exif": exif} if form in ("PNG", "JPEG", "WEBP", "TIFF") else {}
    Image.effect_noise((24, 16), 90).convert("RGB").save(buffer, form, **more)

    def read(data):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = open_image(data, "the image")
        assert image.mode == "RGB"

    survives(read, buffer.getvalue(), (ImageError,))


# ------------------------------------------------------------------------------------------------------ weights, tables
@pytest.mark.parametrize("kind", ["safetensors", "pth", "list", "number", "script"])
def test_weights(tmp_path, kind):
    path, state = tmp_path / f"w.{'safetensors' if kind == 'safetensors' else 'pth'}", {"a.weight": torch.ones(3, 2)}
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "script":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scripts are not to be written any more, and are still about
            torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    else:
        torch.save({"pth": state, "list": [state], "number": 7}[kind], path)
    if kind in ("list", "number", "script"):
        with pytest.raises(UserError):
            weights.read_checkpoint(path)
    survives(through(path, weights.read_checkpoint), path.read_bytes(), inputs=INPUTS // 3)


def test_parquet(tmp_path):
    table = pa.table({"id": ["a", "b"], "turn": [1, 2], "image": [{"bytes": b"x", "path": "a.png"}] * 2})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    read = through(tmp_path / "t.parquet", lambda path: list(ParquetTable(path, UserError).rows(["id", "image"])))
    survives(read, buffer.getvalue())


def test_coco(tmp_path):
    labels = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30, "license": 4}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 18, "bbox": [2.5, 2, 20, 20], "iscrowd": 0}],
        "categories": [{"id": 18, "name": "dog"}],
        "licenses": [{"id": 4, "name": "a licence"}],
    }
    texts = {"annotations": [{"id": 9, "image_id": 1, "caption": "A dog on grass."}]}
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val").mkdir()
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / "val" / "a.jpg")
    (tmp_path / "annotations" / "captions_val.json").write_text(json.dumps(texts))
    place = tmp_path / "annotations" / "instances_val.json"

    def read(data):
        place.write_bytes(data)
        options = Options(on_error=lambda error: None)
        return [list(example.problems()) for example in open_source("coco", place, options=options)]

    for found in survives(read, json.dumps(labels).encode(), (ValueError,)):
        assert not any(found)
