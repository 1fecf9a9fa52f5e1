"""An editing suite from command line to table, on a Parquet file of ImagenHub's schema made here."""

import dataclasses
import io
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from judge_kit import KEY, fails, says, serve
from PIL import Image
from rich.console import Console

from evals import cli, editing, setup
from evals.editing_sets import load_emu_edit, load_imagenhub
from evals.engines import run_local
from evals.given import GivenGenerator
from evals.protocols import Tools
from evals.records import Case, Sample
from evals.runner import run

COUNT = 6
TOOLS = ("--detector", "hf:none", "--embedder", "openclip:none")


class MeanColors:
    """A CLIP for tests: a picture is its mean colour, a text the colours it names."""

    name = "openclip:mean-colors/openai"

    def __init__(self):
        self.batches = []

    def embed_images(self, images):
        self.batches.append(len(images))
        means = np.array([np.asarray(image).reshape(-1, 3).mean(0) + 1 for image in images], np.float32)
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    def embed_texts(self, texts):
        said = np.array([[word in text for word in ("red", "green", "blue")] for text in texts], np.float32) + 0.01
        return said / np.linalg.norm(said, axis=1, keepdims=True)

    def truncated(self, texts):
        return [len(text) > 30 for text in texts]


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def pictures(i):
    """Source with noise, its target with a blue square, and the square's mask."""
    rng = np.random.default_rng(i // 2)  # two edits of each source
    source = Image.fromarray(rng.integers(60, 200, (24, 32, 3), np.uint8))
    target, mask = source.copy(), Image.new("L", source.size, 0)
    square = (4 + i, 4, 16 + i, 16)
    target.paste((0, 0, 255), square)
    mask.paste(255, square)
    return source, target, mask


@pytest.fixture
def data(tmp_path):
    rows = []
    for i in range(COUNT):
        source, target, mask = pictures(i)
        rows.append(
            {
                "img_id": str(i // 2),
                "turn_index": i % 2 + 1,
                "source_img": {"bytes": png(source), "path": None},
                "mask_img": {"bytes": png(mask), "path": None},
                "target_img": {"bytes": png(target), "path": None},
                "instruction": f"add square {i}",
                "source_global_caption": "noise",
                "target_global_caption": "noise" if i == 5 else "noise and a blue square" + " so very blue" * (i == 4),
                "target_local_caption": "blue",
            }
        )
    path = tmp_path / "filtered-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


SUITE = editing.make_suite(
    name="imagenhub",
    version=1,
    protocol="magicbrush",
    title="Tiny ImagenHub",
    add_arguments=lambda group: group.add_argument("--data"),
    load=lambda args: load_imagenhub(args.data, rows=COUNT),
)


def scores_of(data, output, *words, clip=None):
    words = ["--data", str(data), *TOOLS, "--output", str(output), *words]
    plan = setup.make_plan(SUITE, cli.parse(SUITE, words), prepare=lambda: None)
    tools = Tools(detector=None, embedder=clip or MeanColors(), oracle_render=None)
    changes = {"make_tools": lambda: tools, "machine": lambda: {"device": "cpu"}, "engine": run_local}
    return run(dataclasses.replace(plan, **changes))


def test_an_untouched_source_is_the_floor_that_every_table_shows(data, tmp_path):
    clip = MeanColors()
    scores = scores_of(data, tmp_path / "run", "--model", "identity", clip=clip)
    metrics = scores["overall"]["metrics"]
    assert metrics["clip_i_source@mean-colors"]["value"] == pytest.approx(1)
    assert metrics["source/l1"]["value"] == 0
    assert metrics["source/psnr"]["value"] is None
    assert metrics["source/psnr"]["undefined"] == {"infinite: pictures are equal": COUNT}
    for name, block in metrics.items():
        assert block["identity"] == pytest.approx(block["value"]), name
    assert metrics["target/l1_inside"]["value"] > 0.2
    assert metrics["target/l1_outside"]["value"] == 0
    assert metrics["clip_t@mean-colors"]["target"] > metrics["clip_t@mean-colors"]["value"]
    # Every source and target once: two edits share a source, and floor, ceiling and result share pictures.
    assert clip.batches == [COUNT // 2 + COUNT]
    assert (scores["overall"]["groups"], scores["overall"]["images"]) == (COUNT // 2, COUNT)
    assert scores["overall"]["truncated"] == {"mean-colors": 1}


@pytest.fixture
def folder(tmp_path):
    """True targets as results; one is missing, one is black, and one lies about its type."""
    root = tmp_path / "results"
    root.mkdir()
    for i in range(COUNT - 1):
        target = Image.new("RGB", (32, 24)) if i == 2 else pictures(i)[1]
        target.save(root / f"sample_{i // 2}_{i % 2 + 1}.png")
    return root


def test_a_folder_of_results_is_measured_with_what_is_missing_and_black_counted(data, folder, tmp_path):
    scores = scores_of(data, tmp_path / "run", "--model", f"folder:{folder}")
    overall = scores["overall"]
    assert (overall["images"], overall["missing"], overall["black"]) == (COUNT - 1, 1, 1)
    assert scores["missing"]["by_cause"] == {"generate: no such image": 1}
    direction = overall["metrics"]["clip_direction@mean-colors"]
    assert direction["value"] > 0.3
    lines = [json.loads(line) for line in (tmp_path / "run" / "results.jsonl").read_text().splitlines()]
    assert [line["correct"] for line in lines] == [True, True, False, True, True]
    assert lines[0]["metrics"]["source/l1_outside"] == 0
    assert lines[0]["metrics"]["target/l1"] == 0
    assert lines[0]["metrics"]["clip_i_target@mean-colors"] == pytest.approx(1)


def test_a_result_of_another_size_is_brought_to_the_sources(data, tmp_path):
    root = tmp_path / "large"
    root.mkdir()
    for i in range(COUNT):
        pictures(i)[1].resize((96, 72)).save(root / f"sample_{i // 2}_{i % 2 + 1}.jpg")
    scores = scores_of(data, tmp_path / "run", "--model", f"folder:{root}")
    assert scores["overall"]["images"] == COUNT
    assert 0 < scores["overall"]["metrics"]["target/l1"]["value"] < 0.1


def test_a_judge_is_asked_about_every_result_and_its_failures_bound_the_score(data, folder, tmp_path, monkeypatch):
    def answer(request):
        text = request["messages"][0]["content"][0]["text"]
        return fails(400, "no") if "square 1" in text else says("[8, 6]")

    words = ["--model", f"folder:{folder}", "--judge", "openai", "--judge-log", str(tmp_path / "log.jsonl")]
    words += ["--judge-repeats", "2", "--judge-max-failed", "1"]
    monkeypatch.setenv("JUDGE_MODEL", "judge-1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serve(answer) as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
        scores = scores_of(data, tmp_path / "run", *words)
        judge = scores["overall"]["judge"]
        assert judge["failed"] == {"rejected": 2, "no image": 2}
        assert judge["judgements"] == 2 * COUNT
        assert judge["headline"] == pytest.approx(0.6)
        assert judge["bounds"] == pytest.approx([8 * 0.6 / 12, (8 * 0.6 + 4) / 12])
        assert judge["judge_sd"] == 0
        asked = len(endpoint.requests)
        again = scores_of(data, tmp_path / "again", *words)
        assert len(endpoint.requests) == asked + 2  # what was refused is asked again, nothing else
    assert again["overall"]["judge"]["score"] == judge["score"]
    monkeypatch.setenv("JUDGE_MODEL", "judge-2")
    with pytest.raises(cli.UserError, match='judge: "openai:judge-1" -> "openai:judge-2"'):
        scores_of(data, tmp_path / "run", *words)
    monkeypatch.setenv("JUDGE_MODEL", "judge-1")
    strict = scores_of(data, tmp_path / "run", *words[:-1], "0.05", "--from", "verdict")
    assert strict["overall"]["judge"]["headline"] is None
    assert KEY not in "".join(path.read_text() for path in (tmp_path / "run").glob("*.json*"))


def test_the_tables_name_data_licence_floor_and_what_is_missing(data, folder, tmp_path):
    scores = scores_of(data, tmp_path / "run", "--model", f"folder:{folder}")
    console = Console(width=140, record=True, file=io.StringIO())
    for table in editing.editing_scores.tables(scores):
        console.print(table)
    text = console.export_text()
    for words in ("CC-BY-4.0", "untouched", "true", "clip_i_source@mean-colors ↑", "black pictures: 1", "missing: 1 ×"):
        assert words in text
    assert "captions are equal" not in text  # that case has no result
    headline = SUITE.headline(scores)
    assert headline["missing"] == 1
    assert "clip_t@mean-colors" in headline["metrics"]


def test_a_sheet_shows_source_result_and_target_with_the_masks_frame(data, folder, tmp_path):
    scores_of(data, tmp_path / "run", "--model", f"folder:{folder}")
    (path,) = (tmp_path / "run" / "sheets").iterdir()
    page = np.asarray(Image.open(path).convert("RGB")).astype(int)
    side, pad, header = 160, 6, 44
    pictures_at = [page[header + pad :, pad + i * (side + pad) :][:120, :side] for i in range(3)]
    blue = [(p[..., 2] - p[..., 0] > 200).mean() for p in pictures_at]
    assert blue[0] < 0.02 < 0.1 < blue[1]
    assert np.array_equal(pictures_at[1], pictures_at[2])  # this result is the target
    frame = pictures_at[0][4 * 5 - 1, 5 * 5 : 15 * 5]  # the mask begins at row 4 of 24, at 5 px a pixel
    assert (frame == 255).all()


def test_other_instruments_are_another_run(data, tmp_path):
    scores_of(data, tmp_path / "run", "--model", "identity")
    with pytest.raises(cli.UserError, match=r"made with other arguments \(lpips: \"none\" -> \"alex\"\)"):
        scores_of(data, tmp_path / "run", "--model", "identity", "--lpips", "alex")


def test_cases_travel_to_another_process(data):
    case = editing.as_case(load_imagenhub(str(data), rows=COUNT).cases[3])
    copy = pickle.loads(pickle.dumps(case))
    assert np.array_equal(np.asarray(copy.edit.target.load()), np.asarray(pictures(3)[1]))


def test_true_targets_are_the_ceiling(data, tmp_path):
    metrics = scores_of(data, tmp_path / "run", "--model", "target")["overall"]["metrics"]
    assert metrics["target/l1"]["value"] == 0
    for name, block in metrics.items():
        assert block["target"] == pytest.approx(block["value"]), name


def test_pictures_that_a_set_does_not_have_are_refused(data, tmp_path):
    with pytest.raises(cli.UserError, match="--model released: the set has no such picture for case sample_0_1"):
        scores_of(data, tmp_path / "run", "--model", "released")
    sample = Sample(case=Case(id="7", prompt="", tag="", metadata={}), index=0, seed=0)
    with pytest.raises(cli.UserError, match="is for editing suites"):
        GivenGenerator("identity").generate([sample])


def test_released_results_are_measured_like_any_other(tmp_path):
    """Calibration: a published system's own pictures through our encoders."""
    rows = [
        {
            "instruction": f"turn {i}",
            "image": {"bytes": png(pictures(i)[0]), "path": None},
            "edited_image": {"bytes": png(pictures(i)[1]), "path": None},
            "task": "add",
            "split": "test",
            "idx": i,
            "hash": str(i),
            "input_caption": "noise",
            "output_caption": "a blue square",
        }
        for i in range(3)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet")
    suite = dataclasses.replace(
        SUITE, load_cases=lambda args: [editing.as_case(c) for c in load_emu_edit(args.data, rows=3).cases]
    )
    command = cli.parse(
        suite,
        ["--data", str(tmp_path / "test.parquet"), "--model", "released", "--output", str(tmp_path / "run"), *TOOLS],
    )
    plan = setup.make_plan(suite, command, prepare=lambda: None)
    made = plan.make_generator().generate(plan.samples)
    assert [np.array_equal(np.asarray(one.image), np.asarray(pictures(i)[1])) for i, one in enumerate(made)] == [
        True
    ] * 3
