"""What breaks in mid-run: a breakdown ends the run, exceptions are tried again, missing images stay missing."""

import json

import pytest
from runner_kit import ArithmeticDetector, contents, lines, make_plan, plan_like_reference, refusing, worker_of

from evals.core.records import Case, EditCase, EncodedImage, Sample, UserError
from evals.generators.folder import DatasetImages
from evals.generators.oracle import OracleGenerator
from evals.harness.runner import run


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    run(plan_like_reference(folder))
    return folder


class Breaks(OracleGenerator):
    """Works for so many samples, and never again."""

    def __init__(self, good):
        self.left = good

    def generate(self, samples):
        if len(samples) > self.left:
            raise RuntimeError("CUDA error: device-side assert")
        self.left -= len(samples)
        return super().generate(samples)


class BreakingDetector(ArithmeticDetector):
    """The same for a detector."""

    def __init__(self, good):
        super().__init__()
        self.left = good

    def detect(self, images):
        if len(images) > self.left:
            raise RuntimeError("CUDA error: device-side assert")
        self.left -= len(images)
        return super().detect(images)


def breaking(stage, good):
    return {"generator": Breaks(good)} if stage == "generate" else {"detector": BreakingDetector(good)}


# ---------------------------------------------------------------------------------------------------------- breakdowns
@pytest.mark.parametrize("stage", ["generate", "observe"])
@pytest.mark.parametrize("size", ["1", "5"])
def test_a_breakdown_ends_the_run_and_is_held_against_no_sample(reference, tmp_path, stage, size):
    folder = tmp_path / "run"
    words = ("--limit", "12", "--batch-size", size)
    message = rf"{stage} failed on 8 samples in a row: RuntimeError: CUDA error.*the same command resumes"
    with pytest.raises(UserError, match=message):
        run(make_plan(folder, *words, **breaking(stage, 10)))
    assert len(lines(folder / "observations.jsonl")) == 10
    assert not (folder / "failures.jsonl").exists()
    assert not (folder / "scores.json").exists()
    run(make_plan(folder, *words))
    assert contents(folder) == contents(reference)


class Hard(OracleGenerator):
    """Cannot draw some cases, ever."""

    def __init__(self, cases):
        self.cases = cases

    def generate(self, samples):
        if any(sample.case.id in self.cases for sample in samples):
            raise ValueError("a prompt of 78 words")
        return super().generate(samples)


def test_hard_cases_in_a_row_are_failures_and_no_breakdown(tmp_path):
    words = ("--limit", "6", "--images-per-prompt", "4", "--batch-size", "4")
    cases = [case.id for case in make_plan(tmp_path / "run", *words).cases]
    scores = run(make_plan(tmp_path / "run", *words, generator=Hard(cases[1:4])))
    assert scores["missing"]["total"] == 12
    assert [line["case"] for line in lines(tmp_path / "run" / "failures.jsonl")] == [
        c for c in cases[1:4] for _ in "four"
    ]


@pytest.mark.parametrize("stage", ["generate", "observe"])
def test_a_breakdown_within_a_batch_keeps_what_was_done_and_tries_the_rest_again(reference, tmp_path, stage):
    folder = tmp_path / "run"
    with pytest.raises(UserError, match="8 samples in a row"):
        run(plan_like_reference(folder, **breaking(stage, 8)))
    assert len(lines(folder / "observations.jsonl")) == 8
    assert [line["raised"] for line in lines(folder / "failures.jsonl")] == [True, True]
    run(plan_like_reference(folder))
    assert contents(folder) == contents(reference)


def test_drawing_well_does_not_excuse_a_detector_that_never_works(tmp_path):
    with pytest.raises(UserError, match="observe failed on 8 samples in a row"):
        run(make_plan(tmp_path / "run", "--limit", "12", "--batch-size", "1", detector=BreakingDetector(0)))
    assert not (tmp_path / "run").exists()


def test_a_breakdown_while_a_run_is_drawn_again_leaves_a_run_that_goes_on(reference, tmp_path):
    folder = tmp_path / "run"
    run(plan_like_reference(folder))
    with pytest.raises(UserError, match="generate failed on 8 samples in a row"):
        run(make_plan(folder, "--from", "generate", "--batch-size", "8", generator=Breaks(0)))
    assert json.loads((folder / "run.json").read_text())["redo"] == "generate"
    run(plan_like_reference(folder))
    assert contents(folder) == contents(reference)


# ----------------------------------------------------------------------------------------------------------- try again
class Chokes(OracleGenerator):
    """Raises on some samples."""

    def __init__(self, *bad):
        self.bad = set(bad)

    def generate(self, samples):
        if any((sample.case.id, sample.index) in self.bad for sample in samples):
            raise RuntimeError("out of luck")
        return super().generate(samples)


def some_keys(reference, *numbers):
    log = lines(reference / "observations.jsonl")
    return [(log[number]["case"], log[number]["index"]) for number in numbers]


def test_the_same_command_draws_again_what_an_exception_stopped(reference, tmp_path):
    folder = tmp_path / "run"
    bad = some_keys(reference, 3, 4, 17)
    assert run(plan_like_reference(folder, generator=Chokes(*bad)))["overall"]["missing"] == 3
    before = contents(folder)
    run(plan_like_reference(folder, generator=Chokes(*bad)))
    assert contents(folder) == before
    run(plan_like_reference(folder, generator=Chokes(bad[0])))
    assert len(lines(folder / "failures.jsonl")) == 1
    run(plan_like_reference(folder))
    assert contents(folder) == contents(reference)


def test_the_same_command_observes_again_what_an_exception_stopped_and_draws_nothing(reference, tmp_path):
    folder = tmp_path / "run"

    class Hiccup(ArithmeticDetector):
        calls = 0

        def detect(self, images):
            self.calls += 1
            if self.calls in (2, 3, 5):  # a batch, and two of its images
                raise RuntimeError("hiccup")
            return super().detect(images)

    run(plan_like_reference(folder, detector=Hiccup()))
    assert [line["stage"] for line in lines(folder / "failures.jsonl")] == ["observe"] * 2
    run(refusing(plan_like_reference(folder), "generator"))
    assert contents(folder) == contents(reference)


def test_judging_again_tries_nothing_again(reference, tmp_path):
    folder = tmp_path / "run"
    run(plan_like_reference(folder, generator=Chokes(*some_keys(reference, 3))))
    before = contents(folder)
    plan = make_plan(folder, "--from", "verdict")
    run(refusing(plan, "generator", "tools", "machine"))
    assert contents(folder) == before


def test_observing_again_draws_nothing_again(reference, tmp_path):
    folder = tmp_path / "run"
    run(plan_like_reference(folder, generator=Chokes(*some_keys(reference, 3))))
    before = contents(folder)
    run(refusing(make_plan(folder, "--from", "observe"), "generator"))
    assert contents(folder) == before


def test_what_always_fails_is_no_breakdown_when_only_that_is_tried_again(reference, tmp_path):
    """Ten failures, never two in a row, until nothing but them is left."""
    folder = tmp_path / "run"
    words = ("--limit", "12", "--batch-size", "1")
    bad = some_keys(reference, *range(1, 21, 2))
    scores = run(make_plan(folder, *words, generator=Chokes(*bad)))
    before = contents(folder)
    assert scores["missing"]["total"] == 10
    assert run(make_plan(folder, *words, generator=Chokes(*bad))) == scores
    assert contents(folder) == before
    (folder / "scores.json").unlink()  # as a kill leaves it, with the last images to do
    for name in ("chains.jsonl", "observations.jsonl"):
        log = (folder / name).read_bytes().splitlines(keepends=True)
        (folder / name).write_bytes(b"".join(log[:-3]))
    assert run(make_plan(folder, *words, generator=Chokes(*bad))) == scores
    assert contents(folder) == before


@pytest.mark.parametrize("what", ["machine", "generator"])
def test_a_finished_run_outlives_a_device_that_is_not_there_when_failures_are_tried_again(reference, tmp_path, what):
    def refuses(_):
        raise UserError("--device cuda cannot be used")

    folder = tmp_path / "run"
    run(plan_like_reference(folder, generator=Chokes(*some_keys(reference, 3))))
    before = contents(folder)
    with pytest.raises(UserError, match=r"cuda cannot be used \(--from verdict shows the run as it is\)"):
        run(refusing(plan_like_reference(folder), what, why=refuses))
    assert contents(folder) == before


@pytest.mark.parametrize("words", [(), ("--from", "observe"), ("--from", "verdict")])
def test_a_retry_that_is_killed_leaves_no_scores_that_say_less_than_the_logs(reference, tmp_path, monkeypatch, words):
    folder = tmp_path / "run"
    run(plan_like_reference(folder, generator=Chokes(*some_keys(reference, 3, 17))))
    with monkeypatch.context() as patch:
        patch.setattr("evals.harness.runner._Run.finish", lambda run: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(plan_like_reference(folder))
    assert not (folder / "scores.json").exists()
    plan = make_plan(folder, *words) if words else plan_like_reference(folder)
    assert run(plan)["missing"]["total"] == 0
    assert contents(folder) == contents(reference)


def test_a_missing_image_is_missing_for_good(reference, tmp_path):
    folder = tmp_path / "run"
    run(plan_like_reference(folder))
    (folder / lines(folder / "results.jsonl")[2]["filename"]).unlink()
    run(make_plan(folder, "--from", "observe"))
    assert [set(line) for line in lines(folder / "failures.jsonl")] == [{"case", "index", "stage", "error"}]
    scores = run(refusing(plan_like_reference(folder), "generator", "tools", "machine"))
    assert scores == json.loads((folder / "scores.json").read_text())


def test_a_damaged_source_is_a_failure_for_good_and_no_breakdown():
    class Edits:
        name = "edits"

        def generate(self, samples):
            sources = [sample.case.edit.source.load() for sample in samples]
            return DatasetImages("identity").generate(samples) if sources else []

    source = EncodedImage(name="row 3", read=lambda: b"junk")
    edit = EditCase(id="0", instruction="", source=source, category="c")
    case = Case(id="0", prompt="", tag="c", metadata={}, edit=edit)
    samples = [Sample(case=case, index=i, seed=i) for i in range(20)]
    outcomes = worker_of(Edits())(samples)
    assert {one.observation.raised for one in outcomes} == {False}
    assert outcomes[0].observation.error.startswith("ValueError: row 3: Expected an image but the file is none")


def test_what_fails_once_more_is_logged_at_once(reference, tmp_path):
    """A kill then loses no more of it than of anything else."""
    folder = tmp_path / "run"
    words = ("--limit", "12", "--batch-size", "1")
    bad = some_keys(reference, 3, 5, 7)
    run(make_plan(folder, *words, generator=Chokes(*bad)))
    logged = []

    class Looks(Chokes):
        def generate(self, samples):
            logged.append(len(lines(folder / "failures.jsonl")))
            return super().generate(samples)

    run(make_plan(folder, *words, generator=Looks(*bad)))
    assert logged == [3, 4, 5]
