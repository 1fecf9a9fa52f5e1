"""A command that ends without any number says why, and never ends as if it had done its work."""

import json
from pathlib import Path

import pytest
from judge_kit import KEY, fails, says, serve
from PIL import Image
from runner_kit import ArithmeticDetector, accept, as_older

from evals import ablation, emu_edit, judge_agreement
from evals.core.backends import Backend
from evals.detectors import registry as detectors
from evals.geneval import suite as geneval
from evals.harness import cli
from evals.harness.run_spec import find_suite
from reports.__main__ import main as reports_main

EDITING = ("emu_edit", "imagenhub", "reason_edit", "multi_turn", "interactive")
ONE = ["--limit", "1", "--images-per-prompt", "1", "--device", "cpu"]


class Raising(ArithmeticDetector):
    """Cannot look at any image."""

    def detect(self, images):
        raise RuntimeError("no such operator")


@pytest.fixture
def detector(monkeypatch):
    """Registers a detector under the name ``own``."""
    return lambda made: monkeypatch.setitem(
        detectors.DETECTORS.records, "own", Backend(factory=lambda argument, device: made, embedder="openclip:none")
    )


def call(capsys, suite, *words):
    """Exit code, the last line of standard output, standard error."""
    code = cli.main(suite, [str(word) for word in words])
    out, err = capsys.readouterr()
    return code, json.loads(out.splitlines()[-1]) if out else None, err


def damaged(folder, *names):
    """A folder with files that are no images."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"junk")
    return folder


@pytest.fixture(scope="module")
def unscored(tmp_path_factory):
    """A finished run of GenEval in which no image could be read."""
    root = tmp_path_factory.mktemp("unscored")
    words = ["--model", f"folder:{damaged(root / 'images', '00000/samples/0000.png')}", "--detector", "icon"]
    words += ["--output", str(root / "run"), *ONE]
    assert cli.main(geneval.SUITE, words) == 1
    return root / "run", words


# --------------------------------------------------------------------------------------------------------------- suites
def test_a_run_without_a_score_says_what_was_expected_and_found_whenever_it_is_printed(unscored, capsys):
    code, last, err = call(capsys, geneval.SUITE, *unscored[1])
    assert (code, last["overall"], last["images"], last["missing"]) == (1, None, 0, 1)
    assert err.startswith("geneval: nothing was scored: expected 1 image with a score, found none: 1 × generate: ")
    assert "Expected an image but the file is none that can be read" in err
    again = call(capsys, geneval.SUITE, "--output", unscored[0], "--from", "verdict")
    assert again[0] == 1


def test_a_detector_that_raises_on_every_image_of_a_short_run_ends_it_and_the_same_command_goes_on(
    detector, tmp_path, capsys
):
    words = ["--model", "oracle", "--detector", "own", *ONE, "--output", tmp_path / "run"]
    detector(Raising())
    code, last, err = call(capsys, geneval.SUITE, *words)
    assert (code, last) == (2, None)
    assert "observe failed on 1 sample in a row: RuntimeError: no such operator; once that is mended" in err
    detector(ArithmeticDetector())
    code, last, _ = call(capsys, geneval.SUITE, *words)
    assert (code, last["images"], last["missing"]) == (0, 1, 0)


def test_one_score_is_enough(tmp_path, capsys):
    folder = damaged(tmp_path / "images", "00000/samples/0001.png")
    Image.new("RGB", (64, 64)).save(folder / "00000/samples/0000.png")
    words = ["--model", f"folder:{folder}", "--detector", "icon", "--limit", "1", "--images-per-prompt", "2"]
    code, last, _ = call(capsys, geneval.SUITE, *words, "--output", tmp_path / "run")
    assert (code, last["overall"], last["missing"], last["bounds"]) == (0, 0.0, 1, [0.0, 0.5])


@pytest.mark.parametrize("name", EDITING)
def test_an_editing_suite_without_a_image_ends_with_1(name, tmp_path, capsys):
    suite = find_suite(name)
    case = cli.make_plan(suite, []).cases[0].id
    folder = damaged(tmp_path / "images", f"{case}.png")
    code, last, err = call(capsys, suite, "--model", f"folder:{folder}", *ONE, "--output", tmp_path / "run")
    assert (code, last["images"]) == (1, 0)
    assert f"{name}: nothing was scored: expected 1 image with a score, found none: " in err


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (fails(400, "this model sees no images"), "rejected: HTTP 400: this model sees no images"),
        (says("", finish="length"), "truncated: cut off after 50 tokens; --judge-max-tokens allows more"),
    ],
)
def test_a_judge_that_answers_about_no_image_of_a_short_run_ends_it_and_is_asked_again(
    tmp_path, capsys, monkeypatch, failure, said
):
    """Six images in two batches: neither the one that is logged nor the one that is not stands as it was."""
    suite = emu_edit.EmuEdit()
    monkeypatch.setenv("JUDGE_MODEL", "judge-1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    words = ["--model", "target", "--judge", "openai", "--judge-log", tmp_path / "log.jsonl", "--limit", "6"]
    words += ["--batch-size", "4", "--device", "cpu", "--output", tmp_path / "run"]
    with serve(failure) as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
        code, last, err = call(capsys, suite, *words)
        assert (code, last) == (2, None)
        assert f"the judge did not answer about 6 images in a row: {said}; once that is mended, the same command" in err
        assert err.count(f"note: the judge: {said}") == 1
        assert not (tmp_path / "run" / "scores.json").exists()
        (tmp_path / "log.jsonl").unlink()  # another judge
        endpoint.script[:] = [says('{"score": [8, 6], "reasoning": "as asked"}')]
        code, last, _ = call(capsys, suite, *words)
    assert (code, last["images"], last["judge"]["score"]) == (0, 6, 0.6)


def test_a_judge_that_refuses_all_images_leaves_nothing(tmp_path, capsys, monkeypatch):
    suite = emu_edit.EmuEdit()
    monkeypatch.setenv("JUDGE_MODEL", "judge-1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serve(says("", refusal="I cannot")) as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
        words = ["--model", "target", "--judge", "openai", "--judge-log", tmp_path / "log.jsonl", *ONE]
        code, last, err = call(capsys, suite, *words, "--output", tmp_path / "run")
    assert (code, last["judge"]["score"]) == (1, None)
    assert "expected 1 judgements, and all failed: 1 × refusal" in err


# ------------------------------------------------------------------------------------------------------- other commands
def test_a_cell_of_an_ablation_without_a_score_is_named(tmp_path, capsys):
    folder = damaged(tmp_path / "images", "00000/samples/0000.png")
    (tmp_path / "grid.toml").write_text(
        f'[cells]\ndrawn = "--model oracle"\n"given" = "--model folder:{folder} --detector icon"\n'
    )
    code = ablation.main(["--grid", str(tmp_path / "grid.toml"), *ONE, "--output", str(tmp_path / "out")])
    out, err = capsys.readouterr()
    assert code == 1
    assert json.loads(out.splitlines()[-1])["overall"] == 1.0
    assert "ablation: cell given: nothing was scored: expected 1 image with a score, found none" in err
    assert "cell drawn: nothing" not in err


def test_an_ablation_of_edits_without_a_image_has_its_table(tmp_path, capsys):
    suite = emu_edit.EmuEdit()
    case = cli.make_plan(suite, []).cases[0].id
    words = ["--suite", "emu_edit", "--axis", "seed=1,2", "--model", f"folder:{damaged(tmp_path / 'x', f'{case}.png')}"]
    code = ablation.main([*words, *ONE, "--output", str(tmp_path / "out")])
    out, err = capsys.readouterr()
    assert code == 1
    assert json.loads(out.splitlines()[-1])["overall"] is None
    assert err.count("nothing was scored") == 2


def test_a_judge_whose_scores_never_vary_has_no_correlation_with_people(tmp_path, capsys):
    for name, cells in {"a": ("[1, 0]", "[0, 1]", "[1, 1]"), "b": ("[1, 1]", "[0, 0.5]", "[0.5, 1]")}.items():
        rows = "".join(f"{i}\t{cell}\n" for i, cell in enumerate(cells))
        (tmp_path / f"{name}.tsv").write_text(f"uid\tM\n{rows}")
    (tmp_path / "judge.tsv").write_text("uid\tM\n0\t7\n1\t7\n2\t7\n")
    ratings = ["--ratings", *(str(tmp_path / f"{name}.tsv") for name in "ab")]
    assert judge_agreement.main(ratings) == 0
    assert judge_agreement.main([*ratings, "--judge", str(tmp_path / "judge.tsv")]) == 1
    out, err = capsys.readouterr()
    assert set(json.loads(out.splitlines()[-1])["spearman"].values()) == {None}
    assert "judge_agreement: no correlation could be computed" in err


@pytest.mark.parametrize("command", ["table", "report"])
def test_a_report_on_runs_without_a_score_ends_with_1(unscored, capsys, tmp_path, command):
    words = [command, str(unscored[0]), *(["--output", str(tmp_path / "page")] if command == "report" else [])]
    assert reports_main(words) == 1
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1])["scored"] == 0
    assert "no image of these runs has a score" in err


def test_a_run_without_a_score_is_no_baseline(unscored, capsys, tmp_path):
    assert reports_main(["baseline", str(unscored[0]), "--output", str(tmp_path / "base.json")]) == 2
    assert "of its 1 image none has a verdict" in capsys.readouterr().err
    assert not (tmp_path / "base.json").exists()


def test_the_help_and_the_readme_name_the_exit_code(capsys):
    suites = [geneval.SUITE, *(find_suite(name) for name in EDITING)]
    helps = {suite.name: (cli.build_parser(suite).format_help(), "1 nothing was scored") for suite in suites}
    for main, words in (
        (ablation.main, "1 a cell scored nothing"),
        (judge_agreement.main, "1 no correlation could be computed"),
        (reports_main, "1 no image has a score"),
    ):
        with pytest.raises(SystemExit, match="0"):
            main(["--help"])
        helps[main.__module__] = capsys.readouterr().out, words
    helps["README"] = (Path(__file__).parents[2] / "README.md").read_text(), "1 nothing was scored"
    assert [name for name, (text, words) in helps.items() if words not in " ".join(text.split())] == []


# ----------------------------------------------------------------------------------------------- before the first image
def test_a_checkpoint_has_to_be_there_before_a_detector_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, geneval.SUITE, "--checkpoint", "nowhere/x", "--limit", "3")
    assert code == 2
    assert err.startswith(f"geneval: error: --checkpoint nowhere/x: no folder {tmp_path}/nowhere/x, and not to be had")
    (tmp_path / "nowhere" / "x").mkdir(parents=True)
    (tmp_path / "nowhere" / "x" / "model_index.json").write_text('{"scale": "full"}')
    err = call(capsys, geneval.SUITE, "--checkpoint", "nowhere/x", "--limit", "3")[2]
    assert err.startswith("geneval: error: --checkpoint nowhere/x needs --detector, which looks at its images: ")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--model", "folder:photos"], "--model folder:photos"),
        (["--model", "diffusers:owner/pipeline"], "--model diffusers:owner/pipeline"),
        (["--model", "folder:photos", "--from", "generate"], "--model folder:photos"),
    ],
)
def test_images_of_unknown_origin_have_no_default_detector(words, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, last, err = call(capsys, geneval.SUITE, *words)
    assert (code, last) == (2, None)
    assert err == f"geneval: error: {named} needs --detector, which looks at its images: {detectors.choices()}\n"
    assert "mask2former" in err
    assert "icon" in err
    assert list(tmp_path.iterdir()) == []


def test_the_scale_of_a_checkpoint_says_whether_it_draws_icons(tmp_path, capsys):
    words = ["--checkpoint", tmp_path, "--dry-run"]
    (tmp_path / "model_index.json").write_text('{"scale": "got-6b"}')
    assert call(capsys, geneval.SUITE, *words)[0] == 2
    assert call(capsys, geneval.SUITE, *words, "--detector", "mask2former")[0] == 0
    (tmp_path / "model_index.json").write_text('{"scale": "mini"}')
    assert call(capsys, geneval.SUITE, *words)[0] == 0


def test_a_run_of_before_is_judged_again_with_the_detector_that_it_had(unscored, capsys, tmp_path):
    folder, _ = unscored
    spec = json.loads((folder / "run.json").read_text())
    given = spec["arguments"]["given"]
    at = given.index("--detector")
    older = {**spec, "arguments": {**spec["arguments"], "given": given[:at] + given[at + 2 :]}}
    (as_older(folder) / "run.json").write_text(json.dumps(older))
    assert call(capsys, geneval.SUITE, "--output", folder, "--from", "verdict")[0] == 1
    assert call(capsys, geneval.SUITE, "--output", folder, "--from", "observe")[0] == 2
    (folder / "run.json").write_text(json.dumps(spec))
    accept(folder / "run.json")


def test_a_clip_that_cannot_be_had_is_noticed_before_the_first_image(tmp_path, capsys):
    weights = tmp_path / "clip.pt"
    weights.write_bytes(b"")
    words = ["--model", "oracle", "--embedder", f"openclip:ViT-B-32/{weights}", "--images-per-prompt", "1"]
    code, _, err = call(capsys, geneval.SUITE, *words, "--limit", "4", "--output", tmp_path / "run")
    assert code == 2
    assert str(weights) in err
    assert not (tmp_path / "run").exists()
    assert call(capsys, geneval.SUITE, *words, "--limit", "1", "--output", tmp_path / "run")[0] == 0


@pytest.mark.parametrize("flag", ["--embedder openclip:ViT-B-32/", "--clip openclip:ViT-B-32/", "--lpips squeeze:"])
def test_an_instrument_of_edits_that_cannot_be_had_is_noticed_before_the_first_image(tmp_path, capsys, flag):
    suite = emu_edit.EmuEdit()
    (tmp_path / "empty.pth").write_bytes(b"")
    words = ["--model", "target", *f"{flag}{tmp_path}/empty.pth".split(" "), *ONE, "--output", tmp_path / "run"]
    code, _, err = call(capsys, suite, *words)
    assert code == 2
    assert "empty.pth is empty" in err
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------------- classes without a label
class Few(ArithmeticDetector):
    """Has labels for these classes only."""

    classes = frozenset({"person", "bench", "dog", "cat", "bus"})


FEW = ["--model", "oracle", "--detector", "own", "--images-per-prompt", "1", "--limit", "2"]


def test_a_detector_without_a_label_for_what_cases_need_is_refused_by_class(detector, tmp_path, capsys):
    detector(Few())
    prompts = tmp_path / "prompts.jsonl"
    include = [[{"class": "dog", "count": 1}], [{"class": "zebra", "count": 1}, {"class": "bear", "count": 1}]]
    exclude = [[], [{"class": "kite", "count": 1}]]
    lines = [
        {"tag": "two_object", "include": include[i], "exclude": exclude[i], "prompt": f"prompt {i}"} for i in range(2)
    ]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = [*FEW, "--prompts", prompts, "--output", tmp_path / "run"]
    code, last, err = call(capsys, geneval.SUITE, *words)
    assert (code, last) == (2, None)
    assert "arithmetic has no label for 3 of the classes that these cases need" in err
    assert "leaves 1 of 2 cases without a score (bear, kite, zebra); --allow-missing-classes goes on" in err
    assert not (tmp_path / "run").exists()

    code, last, err = call(capsys, geneval.SUITE, *words, "--allow-missing-classes")
    assert code == 0
    assert "warning: arithmetic has no label for 3" in err
    assert (last["images"], last["missing"], last["missing_classes"]) == (1, 1, ["bear", "kite", "zebra"])
    assert last["bounds"] == [last["overall"] / 2, (last["overall"] + 1) / 2]
    scores = json.loads((tmp_path / "run/scores.json").read_text())
    assert scores["missing"] == {
        "total": 1,
        "by_cause": {"observe: the detector has no label for …": 1},
        "classes": ["bear", "kite", "zebra"],
    }
    assert (tmp_path / "run/images/00001/samples/0000.png").is_file()
    assert cli.main(geneval.SUITE, [str(word) for word in words]) == 0
    assert "no label for bear, kite, zebra" in capsys.readouterr().out
    assert reports_main(["table", str(tmp_path / "run"), "--format", "markdown"]) == 0
    assert "no label for bear, kite, zebra" in " ".join(capsys.readouterr().out.split())


def test_a_detector_that_can_judge_no_case_is_refused_in_any_case(detector, tmp_path, capsys):
    detector(Few())
    prompts = tmp_path / "prompts.jsonl"
    line = {"tag": "single_object", "include": [{"class": "kite", "count": 1}], "prompt": "a photo of a kite"}
    prompts.write_text(json.dumps(line) + "\n")
    words = [*FEW, "--prompts", prompts, "--allow-missing-classes", "--output", tmp_path / "run"]
    code, _, err = call(capsys, geneval.SUITE, *words)
    assert code == 2
    assert "leaves 1 of 1 case without a score (kite)" in err


def test_an_edit_of_a_class_without_a_label_is_missing_too(detector, tmp_path, capsys):
    suite = emu_edit.EmuEdit()
    cases = cli.make_plan(suite, []).cases
    some = [suite.classes(case) for case in cases[:2]]
    assert some[1] - some[0]

    class Partial(ArithmeticDetector):
        classes = some[0]

    detector(Partial())
    words = [
        "--model",
        "target",
        "--detector",
        "own",
        "--embedder",
        "icon",
        "--limit",
        "8",
        "--output",
        tmp_path / "run",
    ]
    code, _, err = call(capsys, suite, *words)
    assert code == 2
    assert "has no label for" in err
    code, last, _ = call(capsys, suite, *words, "--allow-missing-classes")
    assert code == 0
    assert last["missing"] >= 1
    scores = json.loads((tmp_path / "run/scores.json").read_text())
    assert scores["missing"]["by_cause"] == {"observe: the detector has no label for …": last["missing"]}
    assert scores["missing"]["classes"] == last["missing_classes"]
    assert cli.main(suite, [str(word) for word in words]) == 0
    assert "no label for" in capsys.readouterr().out


def test_a_mean_of_fewer_tasks_is_said(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 64), "white").save(tmp_path / "images" / "00000.png")
    words = ["--model", f"folder:{tmp_path / 'images'}", "--detector", "icon", "--limit", "6", "--device", "cpu"]
    code, last, err = call(capsys, geneval.SUITE, *words, "--images-per-prompt", "1", "--output", tmp_path / "run")
    assert code == 0
    assert len(last["unscored_tasks"]) == 5
    assert [last["tasks"][tag] for tag in last["unscored_tasks"]] == [None] * 5
    assert "note: overall is the mean of 1 of 6 tasks: no image of " in err
