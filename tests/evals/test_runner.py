"""The run directory: what a run leaves, which samples fail, and how a stage is done again."""

import hashlib
import json

import pytest
from PIL import Image
from runner_kit import LOGS, ArithmeticDetector, contents, lines, make_plan, plan_like_reference, refusing, worker_of

from evals.core.records import Case, Generated, Sample, UserError
from evals.generators.oracle import OracleGenerator
from evals.geneval import prompts, suite
from evals.harness.outcomes import Failed
from evals.harness.run_spec import spread
from evals.harness.runner import run
from got.util import progress
from got.util.images import as_rgb, png_bytes


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    run(plan_like_reference(folder))
    return folder


# ------------------------------------------------------------------------------------------------------ a run in peace
def test_a_run_leaves_the_whole_directory(reference):
    names = {path.name for path in reference.iterdir()}
    assert names >= {"run.json", "images", "sheets", *LOGS}
    results = lines(reference / "results.jsonl")
    assert len(results) == 24
    assert [line["filename"] for line in results] == sorted(line["filename"] for line in results)
    for line in results:
        image = reference / line["filename"]
        with Image.open(image) as opened:
            assert opened.mode == "RGB"
        folder = image.parents[1]
        assert json.loads((folder / "metadata.jsonl").read_text())["prompt"] == line["prompt"]
        assert (folder / "grid.png").is_file()
    assert {path.stem for path in (reference / "sheets").iterdir()} - {"wrong-images"} == {
        line["tag"] for line in results
    }
    assert not list(reference.rglob("*.part"))


def test_run_json_says_what_was_given_resolved_and_used(tmp_path):
    plan = make_plan(tmp_path / "run", "--limit", "6", "--seed", "7")
    run(plan)
    spec = json.loads((tmp_path / "run" / "run.json").read_text())
    assert spec["arguments"]["given"][-4:] == ["--limit", "6", "--seed", "7"]
    assert spec["arguments"]["resolved"]["embedder"] == "openclip:none"
    assert spec["identity"]["generate"]["seed"] == 7
    assert set(spec["identity"]["observe"]) == {"detector", "embedder", "weights_sha256"}


def test_an_observed_image_is_the_image_on_disk(reference):
    # The detector of these tests answers from a hash of the pixels, so one wrong bit would show.
    detector = ArithmeticDetector()
    for line in lines(reference / "observations.jsonl"):
        with Image.open(reference / f"images/{line['case']}/samples/{line['index']:04d}.png") as image:
            (found,) = detector.detect([image.convert("RGB")])
        assert [list(d.box_xyxy_px) for d in found] == [d["box_xyxy_px"] for d in line["detections"]]


def test_batch_size_does_not_change_a_byte(reference, tmp_path):
    for size in ("1", "7"):
        run(make_plan(tmp_path / size, "--limit", "12", "--batch-size", size))
        assert contents(tmp_path / size) == contents(reference)


def test_a_finished_run_is_only_read(reference):
    before = {path: path.stat().st_mtime_ns for path in reference.rglob("*") if path.is_file() and path.name != ".lock"}
    plan = plan_like_reference(reference)
    broken = refusing(plan, "generator", "tools", "machine")
    scores = run(broken)
    assert scores == json.loads((reference / "scores.json").read_text())
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.parametrize("limit", [1, 5, 6, 60, 552, 553, 1000, None])
def test_a_limit_covers_the_tasks_evenly(limit):
    cases = prompts.cases(prompts.generate())
    kept = spread(cases, limit)
    assert len(kept) == min(limit or 553, 553)
    assert kept == sorted(kept, key=lambda case: case.id)
    sizes = [sum(case.tag == tag for case in kept) for tag in dict.fromkeys(case.tag for case in cases)]
    if limit and limit <= 6 * 80:
        assert max(sizes) - min(sizes) <= 1


# ------------------------------------------------------------------------------------------------------- bad samples
class Faulty(OracleGenerator):
    """Raises on some samples, also when they come in a batch."""

    def __init__(self, *bad):
        self.bad = set(bad)

    def generate(self, samples):
        if any((sample.case.id, sample.index) in self.bad for sample in samples):
            raise RuntimeError("out of\nluck")
        return super().generate(samples)


def test_a_sample_that_raises_is_one_recorded_failure(reference, tmp_path):
    first = lines(reference / "observations.jsonl")[3]
    bad = (first["case"], first["index"])
    scores = run(plan_like_reference(tmp_path / "run", generator=Faulty(bad)))
    assert lines(tmp_path / "run" / "failures.jsonl") == [
        {"case": bad[0], "index": bad[1], "stage": "generate", "error": "RuntimeError: out of luck", "raised": True}
    ]
    others = (reference / "results.jsonl").read_bytes().splitlines(keepends=True)
    del others[3]
    assert (tmp_path / "run" / "results.jsonl").read_bytes() == b"".join(others)
    assert scores["overall"]["missing"] == 1


def test_a_failed_sample_stays_failed_after_a_kill(tmp_path):
    bad = ("00000", 1)
    run(plan_like_reference(tmp_path / "run", generator=Faulty(bad)))
    before = contents(tmp_path / "run")
    (tmp_path / "run" / "scores.json").unlink()
    observed = (tmp_path / "run" / "observations.jsonl").read_bytes()
    (tmp_path / "run" / "observations.jsonl").write_bytes(observed[:-9])
    run(plan_like_reference(tmp_path / "run", generator=Faulty(bad)))
    assert contents(tmp_path / "run") == before


class FaultyDetector(ArithmeticDetector):
    def __init__(self, bad):
        super().__init__()
        self.bad = bad

    def detect(self, images):
        if any(hashlib.sha256(png_bytes(image)).hexdigest() == self.bad for image in images):
            raise ValueError("cannot look at this")
        return super().detect(images)


def test_an_image_the_detector_chokes_on_is_one_recorded_failure(reference, tmp_path):
    bad = lines(reference / "chains.jsonl")[10]
    run(plan_like_reference(tmp_path / "run", detector=FaultyDetector(bad["sha256"])))
    (failure,) = lines(tmp_path / "run" / "failures.jsonl")
    assert (failure["case"], failure["index"], failure["stage"]) == (bad["case"], bad["index"], "observe")
    assert len(lines(tmp_path / "run" / "results.jsonl")) == 23
    assert contents(tmp_path / "run", ["chains.jsonl"]) == contents(reference, ["chains.jsonl"])


class Hopeless:
    name = "hopeless"

    def generate(self, samples):
        raise RuntimeError("no weights at all")


def test_a_generator_that_never_works_stops_the_run_and_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="generate failed on 8 samples in a row: RuntimeError: no weights at all"):
        run(make_plan(tmp_path / "run", "--limit", "12", "--batch-size", "16", generator=Hopeless()))
    assert not (tmp_path / "run").exists()


def test_an_image_of_any_mode_is_observed_as_it_is_stored():
    for mode in ("L", "RGBA", "P", "I;16", "CMYK", "1"):
        assert as_rgb(Image.new(mode, (4, 4))).mode == "RGB"
    grey = Image.new("I;16", (1, 1), 65535 // 2)
    assert as_rgb(grey).getpixel((0, 0)) == (127, 127, 127)


def test_exif_orientation_is_applied():
    image = Image.new("RGB", (4, 2))
    image.getexif()[0x0112] = 6
    assert as_rgb(image).size == (2, 4)


class NotJson(suite.GenEval):
    """A suite's observe that returns what JSON cannot hold."""

    def classes(self, case):
        return frozenset()

    def observe(self, batch, tools, options):
        return [{"value": float("nan")} for _ in batch]


def test_nan_never_reaches_the_log():
    case = Case(id="0", prompt="", tag="t", metadata={"include": [{"class": "dog", "count": 1}]})
    made = worker_of(OracleGenerator(), NotJson())([Sample(case=case, index=0, seed=1)])
    assert made[0].observation.stage == "observe"
    assert "JSON" in made[0].observation.error


# ---------------------------------------------------------------------------------------------------------- stages
def test_redoing_a_stage_of_an_untouched_run_changes_nothing(reference, tmp_path):
    folder = tmp_path / "run"
    run(plan_like_reference(folder))
    for stage in ("verdict", "observe", "generate"):
        run(make_plan(folder, "--from", stage))
        assert contents(folder) == contents(reference), stage
        assert json.loads((folder / "run.json").read_text())["redo"] is None


def test_from_verdict_judges_again_without_tools_and_keeps_the_other_arguments(tmp_path):
    folder = tmp_path / "run"
    run(plan_like_reference(folder))
    before = lines(folder / "results.jsonl")
    plan = make_plan(folder, "--from", "verdict", "--threshold", "0.9")
    run(refusing(plan, "generator", "tools", "machine"))
    after = lines(folder / "results.jsonl")
    assert len(after) == len(before) == 24
    assert sum(len(json.loads(line["details"])["person"]) for line in after) == 24
    assert json.loads((folder / "run.json").read_text())["identity"]["verdict"]["threshold"] == 0.9


def test_from_observe_looks_again_and_records_damaged_and_missing_images(tmp_path):
    folder = tmp_path / "run"
    run(plan_like_reference(folder))
    whole = lines(folder / "results.jsonl")
    (folder / whole[0]["filename"]).write_bytes(b"not an image")
    (folder / whole[9]["filename"]).unlink()
    Image.new("RGB", (64, 64)).save(folder / whole[20]["filename"])
    run(refusing(make_plan(folder, "--from", "observe"), "generator"))
    failures = lines(folder / "failures.jsonl")
    assert [(f["stage"], f["error"].split(": ", 1)[1]) for f in failures] == [
        ("observe", "damaged or changed since it was drawn"),
        ("observe", "No such file or directory"),
        ("observe", "damaged or changed since it was drawn"),
    ]
    assert lines(folder / "results.jsonl") == [line for i, line in enumerate(whole) if i not in (0, 9, 20)]


def test_a_run_that_goes_on_with_other_code_says_so_and_keeps_it_on_record(reference, tmp_path, capsys):
    folder = tmp_path / "run"
    run(plan_like_reference(folder))
    (folder / "scores.json").unlink()
    (folder / "observations.jsonl").write_bytes((folder / "observations.jsonl").read_bytes()[:-9])
    other = plan_like_reference(folder)
    other.machine = {"device": "cpu", "code_sha256": "b"}
    capsys.readouterr()
    run(other)
    assert 'warning: this run began elsewhere (code_sha256: null -> "b")' in capsys.readouterr().err
    assert json.loads((folder / "run.json").read_text())["resumed"] == [{"device": "cpu", "code_sha256": "b"}]
    assert contents(folder) == contents(reference)


def test_an_interrupted_observe_goes_on_where_it_was(tmp_path):
    folder = tmp_path / "run"
    run(plan_like_reference(folder))
    before = contents(folder)

    class Stops(ArithmeticDetector):
        calls = 0

        def detect(self, images):
            self.calls += 1
            if self.calls == 3:
                raise KeyboardInterrupt
            return super().detect(images)

    with pytest.raises(KeyboardInterrupt):
        run(make_plan(folder, "--from", "observe", detector=Stops()))
    assert len(lines(folder / "observations.jsonl")) == 10
    counting = Stops()
    counting.calls = 10
    run(make_plan(folder, "--from", "observe", detector=counting))
    assert counting.calls == 10 + 3
    assert contents(folder) == before


def test_an_unfinished_run_is_drawn_to_its_end_by_from_observe(reference, tmp_path):
    folder = tmp_path / "run"
    stops = Faulty()
    calls = []

    def generate(samples):
        calls.append(samples)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return OracleGenerator().generate(samples)

    stops.generate = generate
    with pytest.raises(KeyboardInterrupt):
        run(plan_like_reference(folder, generator=stops))
    run(make_plan(folder, "--from", "observe"))
    assert contents(folder) == contents(reference)


# ------------------------------------------------------------------------------------------------------------ progress
def test_progress_without_a_terminal_speaks_seldom(capsys):
    with progress.Progress("images", 100, done=40) as bar:
        for _ in range(60):
            bar.advance(1, 0)
    err = capsys.readouterr().err.splitlines()
    assert err[0] == "60 of 100 images to do"
    assert err[1].startswith("100/100 images, ")
    assert len(err) == 2


def test_progress_tells_failures_and_time_left():
    bar = progress.Progress("images", 10)
    bar.advance(5, 2)
    assert "5/10 images" in bar.line()
    assert "left, 2 failed" in bar.line()


def test_progress_on_a_terminal_shows_a_bar():
    class Terminal:
        def __init__(self):
            self.text = ""

        def isatty(self):
            return True

        def write(self, text):
            self.text += text

        def flush(self):
            pass

    terminal = Terminal()
    with progress.Progress("images", 3, stream=terminal) as bar:
        bar.advance(3, 1)
    assert "3/3" in terminal.text
    assert "1 failed" in terminal.text


def test_an_image_that_was_not_made_needs_a_reason():
    class Silent:
        name = "silent"

        def generate(self, samples):
            return [Generated(image=None) for _ in samples]

    case = Case(id="0", prompt="", tag="t", metadata={})
    (outcome,) = worker_of(Silent())([Sample(case=case, index=0, seed=1)])
    assert outcome.observation == Failed(stage="generate", error="no image and no reason given")
