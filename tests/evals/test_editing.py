"""An editing suite from command line to table, on a Parquet file of ImagenHub's schema made here."""

import hashlib
import io
import json
import pickle
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from edit_kit import word_clip
from judge_kit import KEY, fails, says, serve
from PIL import Image
from rich.console import Console

from evals.core.backends import Tools
from evals.core.records import Case, Sample
from evals.editing.options import PublishedOptions
from evals.editing.published import load_emu_edit, load_imagenhub
from evals.editing.suite import EditingSuite, as_case
from evals.generators.folder import DatasetImages
from evals.harness import cli
from evals.harness.runner import run

COUNT = 6
TOOLS = ("--detector", "hf:none", "--embedder", "openclip:none")


class MeanColors:
    """A CLIP for tests: an image is its mean colour, a text the colours it names."""

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


def images(i):
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
        source, target, mask = images(i)
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


class Tiny(EditingSuite):
    name, title, version, protocol, options = "imagenhub", "Tiny ImagenHub", 1, "emu-edit", PublishedOptions

    def load(self, options):
        return load_imagenhub(options.data, rows=COUNT)


class Own(Tiny):
    def load(self, options):
        return load_imagenhub(options.data, rows=COUNT + 1)


SUITE = Tiny()


def scores_of(data, output, *words, clip=None, suite=SUITE):
    words = ["--data", str(data), *TOOLS, "--output", str(output), *words]
    plan = cli.make_plan(suite, words)
    plan.tools = Tools(detector=pytest.fail, embedder=lambda: clip or MeanColors())
    plan.machine = {"device": "cpu"}
    return run(plan)


def test_images_that_are_there_are_judged_in_batches_that_keep_all_requests_busy(data, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")

    def batch_size(*words):
        words = ["--data", str(data), *TOOLS, "--output", str(tmp_path / "x"), "--judge", "openai:m", *words]
        return cli.make_plan(SUITE, words).batch_size

    many = ("--judge-concurrency", "40")
    assert [batch_size("--model", model, *many) for model in ("identity", "got", "oracle")] == [80, 32, 32]
    assert batch_size("--model", "identity", *many, "--batch-size", "4") == 4


def test_a_reasoning_judge_on_a_picky_server_is_scored_and_what_it_will_not_judge_is_missing(
    data, tmp_path, monkeypatch, capsys
):
    def answer(request):
        if "seed" in request:
            return fails(422, body={"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]})
        text = request["messages"][0]["content"][0]["text"]
        if "add square 1" in text:
            return fails(403, "Your input was flagged by moderation")
        if "add square 2" in text:
            return says('{"score": [0, 0], "reasoning": "cannot evaluate such images"}')
        if "add square 3" in text:
            return says("", finish="length", usage=(900, 1400))
        thought = {"type": "thinking", "thinking": '{"score": [0, 0]}'}
        return says([thought, {"type": "text", "text": '<think>{"score": [1, 1]}?</think>{"score": [8, 6]}'}])

    words = ("--model", "identity", "--judge", "openai:m", "--judge-max-failed", "1")
    with serve(answer) as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
        scores = scores_of(data, tmp_path / "run", *words, "--judge-log", str(tmp_path / "log.jsonl"))
    judge = scores["overall"]["judge"]
    assert judge["score"]["value"] == pytest.approx(0.6)
    assert judge["failed"] == {"refusal": 2, "truncated": 1}
    assert judge["judge"].startswith("got@m#")
    assert judge["judge"].endswith("+1048576px")
    said = capsys.readouterr().err
    assert said.count("note: m does not take seed; it is left out: body.seed: Extra inputs are not permitted") == 1
    assert "cut off after 1400 tokens; --judge-max-tokens allows more" in said
    asked = [request for request in endpoint.requests if "seed" not in request]
    assert len(asked) == COUNT


def test_the_next_images_are_drawn_while_a_judge_answers_and_change_nothing(data, tmp_path, monkeypatch):
    """Each answer waits until the next batch is drawn, or none is left."""
    drawn = threading.Semaphore(0)

    class Counted(DatasetImages):
        def generate(self, samples):
            drawn.release(len(samples))
            return super().generate(samples)

    def run_with(output, answer, *words):
        with serve(answer) as endpoint:
            monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
            words = ["--data", str(data), *TOOLS, "--model", "target", "--judge", "openai:m", *words]
            words += ["--output", str(tmp_path / output), "--judge-log", str(tmp_path / f"{output}.jsonl")]
            plan = cli.make_plan(SUITE, words)
            plan.tools = Tools(detector=pytest.fail, embedder=MeanColors)
            plan.generator, plan.machine = Counted("target"), {"device": "cpu"}
            run(plan)
            return (tmp_path / output / "results.jsonl").read_bytes(), len(endpoint.requests)

    def patient(request):
        order.append(request)
        needed = 2 if len(order) == 1 else 1 if len(order) < COUNT else 0
        return good if all(drawn.acquire(timeout=20) for _ in range(needed)) else fails(400, "nothing was drawn")

    order, good = [], says('{"score": [8, 6]}')
    ahead = run_with("ahead", patient, "--batch-size", "1")
    assert ahead == run_with("together", lambda request: good, "--batch-size", str(COUNT))
    assert json.loads(ahead[0].splitlines()[0])["judge"] == [0.6]


def test_own_data_are_scored_and_labelled_as_such(data, tmp_path):
    scores = scores_of(data, tmp_path / "run", "--model", "identity", suite=Own())
    assert scores["title"] == "Tiny ImagenHub's protocol, own data"
    assert scores["data"]["name"].startswith("own data (filtered-00000-of-00001.parquet), in the form of ImagenHub")
    assert SUITE.headline(scores)["data"] == scores["data"]["name"]
    assert scores["overall"]["metrics"]["source/l1"]["value"] == 0


def test_an_untouched_source_is_the_floor_that_every_table_shows(data, tmp_path):
    clip = MeanColors()
    scores = scores_of(data, tmp_path / "run", "--model", "identity", clip=clip)
    metrics = scores["overall"]["metrics"]
    assert metrics["clip_i_source@mean-colors"]["value"] == pytest.approx(1)
    assert metrics["source/l1"]["value"] == 0
    assert metrics["source/psnr"]["value"] is None
    assert metrics["source/psnr"]["undefined"] == {"infinite: images are equal": COUNT}
    for name, block in metrics.items():
        assert block["identity"] == pytest.approx(block["value"]), name
    assert metrics["target/l1_inside"]["value"] > 0.2
    assert metrics["target/l1_outside"]["value"] == 0
    assert metrics["clip_t@mean-colors"]["target"] > metrics["clip_t@mean-colors"]["value"]
    # Every source and target once: two edits share a source, and floor, ceiling and result share images.
    assert clip.batches == [COUNT // 2 + COUNT]
    assert (scores["overall"]["groups"], scores["overall"]["images"]) == (COUNT // 2, COUNT)
    assert scores["overall"]["truncated"] == {"mean-colors": 1}


@pytest.fixture
def folder(tmp_path):
    """True targets as results; one is missing, one is black, and one lies about its type."""
    root = tmp_path / "results"
    root.mkdir()
    for i in range(COUNT - 1):
        target = Image.new("RGB", (32, 24)) if i == 2 else images(i)[1]
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
    assert [line["correct"] for line in lines] == [None, None, False, None, None]  # no truth, no claim
    assert [line["reason"] for line in lines] == ["", "", "the picture is black", "", ""]
    assert lines[0]["metrics"]["source/l1_outside"] == 0
    assert lines[0]["metrics"]["target/l1"] == 0
    assert lines[0]["metrics"]["clip_i_target@mean-colors"] == pytest.approx(1)


def test_a_result_of_another_size_is_brought_to_the_sources(data, tmp_path):
    root = tmp_path / "large"
    root.mkdir()
    for i in range(COUNT):
        images(i)[1].resize((96, 72)).save(root / f"sample_{i // 2}_{i % 2 + 1}.jpg")
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


ASK_AGAIN = "--from observe asks again"


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """An endpoint that answers everything, in the environment, and the flags that ask it."""
    monkeypatch.setenv("JUDGE_MODEL", "judge-1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serve(says("[8, 6]")) as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
        words = ["--model", "target", "--judge", "openai", "--judge-log", str(tmp_path / "log.jsonl")]
        yield endpoint, [*words, "--judge-concurrency", "1"]


def text_of(scores):
    console = Console(width=140, record=True, file=io.StringIO())
    for table in SUITE.tables(scores):
        console.print(table)
    return console.export_text()


@pytest.mark.parametrize("batch", ["6", "2"])
def test_a_judge_that_goes_away_ends_the_run_and_the_same_command_goes_on(data, tmp_path, asked, batch):
    """Also where batches with judgements that were not had are on record before it is clear that it has gone."""
    endpoint, words = asked
    words += ["--judge-repeats", "2", "--batch-size", batch]
    endpoint.script[:] = [*[says("[8, 6]")] * 2, fails(429, Retry_After="3600")]
    with pytest.raises(cli.UserError, match="the judge does not answer"):
        scores_of(data, tmp_path / "run", *words)
    endpoint.script[:] = [says("[8, 6]")]
    before = len(endpoint.requests)
    judge = scores_of(data, tmp_path / "run", *words)["overall"]["judge"]
    assert (judge["failed"], judge["headline"]) == ({}, pytest.approx(0.6))
    assert len(endpoint.requests) == before + 2 * COUNT - 2


def test_a_table_with_judgements_that_were_not_had_says_how_to_get_them(data, tmp_path, asked):
    endpoint, words = asked
    words += ["--judge-price", "1000", "2000", "--max-spend"]
    scores = scores_of(data, tmp_path / "run", *words, "8.1")
    assert scores["overall"]["judge"]["failed"] == {"budget": COUNT - 3}
    assert ASK_AGAIN in text_of(scores)
    assert scores_of(data, tmp_path / "run", *words, "100") == scores  # a finished run is only read
    more = scores_of(data, tmp_path / "run", *words, "100", "--from", "observe")
    assert (more["overall"]["judge"]["failed"], len(endpoint.requests)) == ({}, COUNT)
    assert ASK_AGAIN not in text_of(more)


def test_another_endpoint_or_other_weights_are_another_run(data, tmp_path, asked, monkeypatch):
    endpoint, words = asked
    scores_of(data, tmp_path / "run", *words)
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url.replace("127.0.0.1", "localhost"))
    with pytest.raises(cli.UserError, match="judge_place: "):
        scores_of(data, tmp_path / "run", *words)
    monkeypatch.delenv("OPENAI_BASE_URL")  # who only sums up again needs no endpoint
    more = scores_of(data, tmp_path / "run", *words, "--judge-max-failed", "0.5", "--from", "verdict")
    assert more["overall"]["judge"]["headline"] == pytest.approx(0.6)
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    assert scores_of(data, tmp_path / "run", *words, "--judge-max-failed", "0.5") == more
    (tmp_path / "vlm").mkdir()
    (tmp_path / "vlm" / "config.json").write_text("{}")
    seen = []
    for content in (b"\0a", b"\0b"):
        (tmp_path / "vlm" / "model.bin").write_bytes(content)
        given = ["--data", str(data), *TOOLS, "--judge", f"hf:{tmp_path / 'vlm'}"]
        seen.append(cli.make_plan(SUITE, given).identity["observe"]["judge_place"])
    assert seen[0] != seen[1]
    assert all(name.startswith("vlm-") for name in seen)


def test_a_judges_flags_are_checked_before_anything_is_drawn(data, tmp_path):
    for words, message in (
        (["--judge", "measured"], "--judge measured is for the icon world"),
        (["--judge-repeats", "0"], "expected a whole number from 1 up"),
        (["--judge", "gpt"], "but got 'gpt'"),
    ):
        with pytest.raises(cli.UserError, match=message):
            scores_of(data, tmp_path / "run", "--model", "target", *words)
    assert not (tmp_path / "run").exists()


def test_a_judge_that_cannot_be_had_leaves_the_old_run_as_it_was(data, tmp_path, monkeypatch):
    scores = scores_of(data, tmp_path / "run", "--model", "target")
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for words in (["--judge", "openai:m"], ["--dino", f"dino:{tmp_path}"], ["--lpips", "resnet"]):
        with pytest.raises(cli.UserError, match=r"set OPENAI_API_KEY|cannot be loaded|Expected an LPIPS network"):
            scores_of(data, tmp_path / "run", "--model", "target", *words, "--from", "observe")
        assert scores_of(data, tmp_path / "run", "--model", "target") == scores


def test_a_part_of_a_set_says_which_and_a_published_set_is_photographs(data, tmp_path):
    """Also with the detector of the icon world, which is the default and looks at nothing here."""
    whole = scores_of(data, tmp_path / "whole", "--model", "target", "--detector", "icon")
    part = scores_of(data, tmp_path / "part", "--model", "target", "--detector", "icon", "--limit", "4")
    assert [(s["data"]["cases"], s["data"]["of"]) for s in (whole, part)] == [(COUNT, COUNT), (4, COUNT)]
    run = [json.loads(line)["case"] for line in (tmp_path / "part" / "results.jsonl").read_text().splitlines()]
    assert part["data"]["ids_sha256"] == hashlib.sha256("\n".join(sorted(run)).encode()).hexdigest()
    assert whole["data"]["ids_sha256"] == load_imagenhub(str(data), rows=COUNT).ids_sha256
    assert f"filtered: 4 of {COUNT} cases" in text_of(part)
    assert f"filtered: {COUNT} cases" in text_of(whole)
    headline = SUITE.headline(part)
    assert (headline["cases"], headline["world"]) == (4, "photographs")


def test_a_clip_that_cannot_tell_the_length_of_a_text_measures_all_the_same(data, tmp_path):
    siglip = word_clip(tmp_path / "siglip")
    with pytest.raises(NotImplementedError):
        siglip.truncated(["noise"])
    scores = scores_of(data, tmp_path / "run", "--model", "target", clip=siglip)
    overall = scores["overall"]
    (label,) = overall["truncation_unknown"]
    assert (overall["images"], overall["truncated"]) == (COUNT, {})
    assert overall["metrics"][f"clip_t@{label}"]["n"] == COUNT
    assert f"cut captions: {label} does not tell" in text_of(scores)


def test_the_tables_name_data_licence_floor_and_what_is_missing(data, folder, tmp_path):
    scores = scores_of(data, tmp_path / "run", "--model", f"folder:{folder}")
    text = text_of(scores)
    for words in ("CC-BY-4.0", "untouched", "true", "clip_i_source@mean-colors ↑", "black images: 1", "missing: 1 ×"):
        assert words in text
    assert "captions are equal" not in text  # that case has no result
    headline = SUITE.headline(scores)
    assert headline["missing"] == 1
    assert "clip_t@mean-colors" in headline["metrics"]


def test_a_sheet_shows_source_result_and_target_with_the_masks_frame(data, folder, tmp_path):
    scores_of(data, tmp_path / "run", "--model", f"folder:{folder}")
    (path,) = (path for path in (tmp_path / "run" / "sheets").iterdir() if path.stem != "wrong-images")
    page = np.asarray(Image.open(path).convert("RGB")).astype(int)
    side, pad, header = 160, 6, 44
    images_at = [page[header + pad :, pad + i * (side + pad) :][:120, :side] for i in range(3)]
    blue = [(p[..., 2] - p[..., 0] > 200).mean() for p in images_at]
    assert blue[0] < 0.02 < 0.1 < blue[1]
    assert np.array_equal(images_at[1], images_at[2])  # this result is the target
    row = page[header + pad + side + pad :][:16]  # where ticks and crosses stand
    marks = [row[:, pad + i * 3 * (side + 2 * pad) :][:, :16] for i in range(3)]
    assert [(np.ptp(mark, axis=-1) > 40).any() for mark in marks] == [False, False, True]  # black, so a cross
    frame = images_at[0][4 * 5 - 1, 5 * 5 : 15 * 5]  # the mask begins at row 4 of 24, at 5 px a pixel
    assert (frame == 255).all()


def test_other_instruments_are_another_run(data, tmp_path):
    scores_of(data, tmp_path / "run", "--model", "identity")
    with pytest.raises(cli.UserError, match=r"made with other arguments \(lpips: \"none\" -> \"alex\"\)"):
        scores_of(data, tmp_path / "run", "--model", "identity", "--lpips", "alex")


def test_cases_travel_to_another_process(data):
    case = as_case(load_imagenhub(str(data), rows=COUNT).cases[3])
    copy = pickle.loads(pickle.dumps(case))
    assert np.array_equal(np.asarray(copy.edit.target.load()), np.asarray(images(3)[1]))


def test_true_targets_are_the_ceiling(data, tmp_path):
    metrics = scores_of(data, tmp_path / "run", "--model", "target")["overall"]["metrics"]
    assert metrics["target/l1"]["value"] == 0
    for name, block in metrics.items():
        assert block["target"] == pytest.approx(block["value"]), name


def test_images_that_a_set_does_not_have_are_refused(data, tmp_path):
    with pytest.raises(cli.UserError, match="--model released: the set has no such image for case sample_0_1"):
        scores_of(data, tmp_path / "run", "--model", "released")
    sample = Sample(case=Case(id="7", prompt="", tag="", metadata={}), index=0, seed=0)
    with pytest.raises(cli.UserError, match="is for editing suites"):
        DatasetImages("identity").generate([sample])


def test_released_results_are_measured_like_any_other(tmp_path):
    """Calibration: a published system's own images through our encoders."""
    rows = [
        {
            "instruction": f"turn {i}",
            "image": {"bytes": png(images(i)[0]), "path": None},
            "edited_image": {"bytes": png(images(i)[1]), "path": None},
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

    class Released(EditingSuite):
        name, title, version, protocol, options = "emu_edit", "Tiny Emu-Edit", 1, "emu-edit", PublishedOptions

        def load(self, options):
            return load_emu_edit(options.data, rows=3)

    words = ["--data", str(tmp_path / "test.parquet"), "--model", "released", "--output", str(tmp_path / "run"), *TOOLS]
    plan = cli.make_plan(Released(), words)
    made = plan.generator.generate(plan.samples)
    assert [np.array_equal(np.asarray(one.image), np.asarray(images(i)[1])) for i, one in enumerate(made)] == [True] * 3
