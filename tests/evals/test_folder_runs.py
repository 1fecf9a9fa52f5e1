"""Runs over folders of images made elsewhere: when they go on, whose prompts they take, and which tasks."""

import json
import os
import shutil

import pytest
from folder_kit import CASE, CASES, put, tell
from runner_kit import TOOLS, ArithmeticDetector, as_older, contents, lines, make_plan, refusing

from evals import emu_edit
from evals.core.records import UserError
from evals.geneval import prompts, suite
from evals.harness import cli
from evals.harness.runner import run

# ------------------------------------------------------------------------------------------------------------- identity
SMALL = ("--limit", "6")


class CountingDetector(ArithmeticDetector):
    def __init__(self):
        super().__init__()
        self.seen = 0

    def detect(self, images):
        self.seen += len(images)
        return super().detect(images)


def folder_plan(output, *words, detector=None):
    """A plan that draws from the folder itself, as the command line does."""
    plan = make_plan(output, *words, detector=detector)
    del plan.generator
    return plan


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn") / "run"
    run(make_plan(folder, *SMALL))
    return folder


@pytest.fixture
def scored(drawn, tmp_path):
    """A run over 12 images of a folder, and the words that made it."""
    shutil.copytree(drawn / "images", tmp_path / "images")
    words = (*SMALL, "--model", f"folder:{tmp_path / 'images'}", "--batch-size", "1")
    run(folder_plan(tmp_path / "run", *words))
    return tmp_path / "run", tmp_path / "images", words


def refuse_all(plan):
    return refusing(plan, "generator", "tools")


def test_times_places_and_ways_to_write_a_path_are_no_part_of_a_folders_identity(scored, monkeypatch, tmp_path):
    output, images, words = scored
    os.utime(next(images.glob("*/samples/0000.png")), ns=(1, 1))
    (images / "00000" / "notes.txt").write_text("of no effect")
    run(refuse_all(make_plan(output, *words)))
    monkeypatch.chdir(tmp_path)
    run(refuse_all(make_plan(output, *SMALL, "--model", "folder:images")))
    shutil.copytree(images, tmp_path / "copy")
    run(refuse_all(make_plan(output, *SMALL, "--model", "folder:copy")))


def test_a_changed_image_alone_is_done_again_and_named(scored, capsys):
    output, images, words = scored
    before, log = contents(output), lines(output / "chains.jsonl")
    changed = sorted(images.glob("*/samples/0001.png"))[1]
    put(changed, 77)
    capsys.readouterr()
    detector = CountingDetector()
    scores = run(folder_plan(output, *words, detector=detector))
    assert detector.seen == 1
    name = changed.relative_to(images).as_posix()
    assert f"note: of 12 images 1 changed ({name}) since this run was made: done again\n" in capsys.readouterr().err
    again = lines(output / "chains.jsonl")
    assert [old["sha256"] != new["sha256"] for old, new in zip(log, again, strict=True)] == [i == 3 for i in range(12)]
    assert scores["images"]["n"] == 12
    run(refuse_all(make_plan(output, *words)))
    fresh = output.parent / "fresh"
    run(folder_plan(fresh, *words))
    assert contents(fresh) == contents(output) != before, "as if it had been made so at once"
    assert held(output) == held(fresh) == {"images": 12, "used": 12}


def test_changed_added_and_deleted_images_are_told_apart_and_all_that_is_redone_is_counted(scored, capsys):
    output, images, words = scored
    first, second, third, *_ = sorted(images.glob("*/samples/0001.png"))
    data = first.read_bytes()
    first.unlink()
    run(folder_plan(output, *words))  # without one image, which is then added
    first.write_bytes(data)
    put(second, 77)
    third.unlink()
    capsys.readouterr()
    detector = CountingDetector()
    run(folder_plan(output, *words, "--batch-size", "4", detector=detector))
    said = capsys.readouterr().err
    names = [path.relative_to(images).as_posix() for path in (first, second, third)]
    added, changed, deleted = names
    assert f"of 12 images 1 changed ({changed}), 1 added ({added}), 1 deleted ({deleted}) since this run" in said
    assert "done again, with 5 others of the same batches" in said
    assert detector.seen == 8 - 1


def whole(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def held(output):
    """What run.json says of the folder."""
    return json.loads((output / "run.json").read_text())["arguments"]["folder"]


def test_a_refused_command_leaves_a_run_with_changed_images_as_it_was(scored):
    output, images, words = scored
    put(sorted(images.glob("*/samples/0001.png"))[1], 77)
    before = whole(output)

    def refuse(_):
        raise UserError("no such weights")

    class Blind(ArithmeticDetector):
        classes = frozenset({"dog"})

    refused = [
        (folder_plan(output, *words, "--threshold", "0.5"), "other arguments .*threshold: 0.3 -> 0.5.*--from verdict"),
        (folder_plan(output, *words, "--embedder", "openclip:other"), "other arguments .*embedder"),
        (folder_plan(output, *words, "--seed", "3"), "other arguments .*seed"),
        (refusing(folder_plan(output, *words), "tools", why=refuse), "no such weights"),
        (refusing(folder_plan(output, *words), "generator", why=refuse), "no such weights"),
        (refusing(folder_plan(output, *words), "machine", why=refuse), "no such weights"),
        (folder_plan(output, *words, detector=Blind()), "has no label for"),
    ]
    for other, message in refused:
        with pytest.raises(UserError, match=message):
            run(other)
        assert whole(output) == before
    run(folder_plan(output, *words))
    assert whole(output) != before


def test_an_image_that_came_or_went_is_done_again(scored, capsys):
    output, images, words = scored
    gone = sorted(images.glob("*/samples/0001.png"))[1]
    data = gone.read_bytes()
    before = contents(output)
    gone.unlink()
    assert run(folder_plan(output, *words))["missing"]["total"] == 1
    assert held(output) == {"images": 11, "used": 11, "missing": 1}
    assert not (output / "images" / gone.relative_to(images)).exists(), "the old image is not this run's any more"
    gone.write_bytes(data)
    assert run(folder_plan(output, *words))["missing"]["total"] == 0
    assert contents(output) == before
    assert held(output) == {"images": 12, "used": 12}


def test_a_folder_that_grows_is_gone_on_with(drawn, tmp_path):
    """Most images are new here, but none of them replaces another one."""
    images = tmp_path / "images"
    shutil.copytree(drawn / "images", images)
    late = sorted(images.glob("*/samples/*.png"))[2:]
    kept = [path.read_bytes() for path in late]
    for path in late:
        path.unlink()
    words = (*SMALL, "--model", f"folder:{images}")
    assert run(folder_plan(tmp_path / "run", *words))["missing"]["total"] == 10
    for path, data in zip(late, kept, strict=True):
        path.write_bytes(data)
    assert run(folder_plan(tmp_path / "run", *words))["missing"]["total"] == 0


def test_other_images_altogether_are_another_run(scored):
    output, images, words = scored
    for number, path in enumerate(sorted(images.glob("*/samples/*.png"))):
        put(path, number)
    with pytest.raises(UserError, match=r"other files \(of its 12 images 12 changed \(.*/0000\.png, .* --from gen"):
        run(make_plan(output, *words))
    (output / "sources.jsonl").rename(output / "gone")
    with pytest.raises(UserError, match=r"other files \(folder_sha256.*choose another --output or .* --from generate"):
        run(make_plan(output, *words))
    (output / "gone").rename(output / "sources.jsonl")
    run(make_plan(output, *words, "--from", "verdict"))
    run(folder_plan(output, *words, "--from", "generate"))
    run(refuse_all(make_plan(output, *words)))


def test_another_folder_with_other_images_is_another_run(scored, tmp_path):
    output, images, _ = scored
    shutil.copytree(images, tmp_path / "other")
    put(next((tmp_path / "other").glob("*/samples/0000.png")), 99)
    with pytest.raises(UserError, match=r"other arguments \(folder_sha256.*model: "):
        run(make_plan(output, *SMALL, "--model", f"folder:{tmp_path / 'other'}"))


def test_a_kill_in_the_middle_of_forgetting_changes_nothing(scored, monkeypatch):
    output, images, words = scored
    put(sorted(images.glob("*/samples/0001.png"))[1], 77)

    def die(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("evals.harness.runner._Run._write_sources", die)
        with pytest.raises(KeyboardInterrupt):
            run(folder_plan(output, *words))
    run(folder_plan(output, *words))
    run(folder_plan(output.parent / "fresh", *words))
    assert contents(output) == contents(output.parent / "fresh")


def test_a_run_whose_folder_is_gone_can_be_scored_again(scored):
    output, images, words = scored
    shutil.rmtree(images)
    assert run(make_plan(output, *words, "--from", "verdict", "--threshold", "0.5"))["images"]["n"] == 12


@pytest.fixture(params=[{}, {"images_sha256": "of names and times"}])
def older(scored, request, monkeypatch, tmp_path):
    """A run that did not say what its images were, or only when they were written, and had the path as it was typed."""
    output, images, words = scored
    spec = json.loads((output / "run.json").read_text())
    del spec["identity"]["generate"]["folder_sha256"]
    del spec["arguments"]["folder"]
    spec["identity"]["generate"] |= {"model": "folder:images", **request.param}
    (output / "run.json").write_text(json.dumps(spec))
    (as_older(output) / "sources.jsonl").unlink()
    monkeypatch.chdir(tmp_path)
    return output, images, words


def test_runs_of_earlier_versions_are_still_read_and_know_their_images_from_then_on(older, capsys):
    output, images, words = older
    before = contents(output)
    capsys.readouterr()
    said = f"note: {output} does not say which images it was made of; not checked, taken to be those of now"
    run(refuse_all(make_plan(output, *SMALL, "--model", "folder:images")))
    assert said in capsys.readouterr().err
    run(refuse_all(make_plan(output, *words)))
    assert said not in capsys.readouterr().err
    assert contents(output) == before
    assert held(output) == {"images": 12, "used": 12}
    put(sorted(images.glob("*/samples/0001.png"))[1], 77)
    run(folder_plan(output, *words))
    assert "of 12 images 1 changed" in capsys.readouterr().err
    for number, path in enumerate(sorted(images.glob("*/samples/*.png"))):
        put(path, number)
    with pytest.raises(UserError, match="of its 12 images 12 changed"):
        run(make_plan(output, *words))


def test_an_unfinished_run_of_an_earlier_version_goes_on_and_says_that_its_images_were_not_checked(older, capsys):
    output, _, words = older
    whole_run = contents(output)
    (output / "scores.json").unlink()
    for log in ("chains.jsonl", "observations.jsonl"):
        (output / log).write_bytes(b"".join((output / log).read_bytes().splitlines(keepends=True)[:5]))
    capsys.readouterr()
    run(folder_plan(output, *words))
    assert "does not say which images it was made of" in capsys.readouterr().err
    assert contents(output) == whole_run
    assert len(lines(output / "sources.jsonl")) == 12


def test_an_earlier_run_is_not_taken_for_one_of_another_folder_and_is_only_judged_by_what_it_has(older, tmp_path):
    output, images, words = older
    shutil.copytree(images, tmp_path / "copy")
    before = whole(output)
    with pytest.raises(UserError, match=r"other arguments .*model: "):
        run(make_plan(output, *SMALL, "--model", "folder:copy"))
    with pytest.raises(UserError, match=r"other arguments .*threshold"):
        run(make_plan(output, *words, "--threshold", "0.5"))
    assert whole(output) == before
    run(make_plan(output, *words, "--from", "verdict", "--threshold", "0.5"))
    assert not (output / "sources.jsonl").exists()


def test_a_folders_default_output_does_not_move_with_its_images(scored, monkeypatch, tmp_path):
    _, images, _ = scored

    def output(place):
        return cli.make_plan(suite.SUITE, ["--model", f"folder:{place}", *TOOLS]).output

    first = output(images)
    next(images.glob("*/samples/0000.png")).unlink()
    monkeypatch.chdir(tmp_path)
    assert output(images) == output("images") == first
    shutil.copytree(images, tmp_path / "copy")
    assert output("copy") != first


# --------------------------------------------------------------------------------------------------------- own prompts
def test_long_rewritten_prompts_are_one_error_that_names_the_way(drawn, tmp_path, capsys):
    images = tmp_path / "images"
    shutil.copytree(drawn / "images", images)
    for path in images.glob("*/metadata.jsonl"):
        metadata = json.loads(path.read_text())
        long = {**metadata, "prompt": f"A detailed scene:\u2028{metadata['prompt']}, at dusk.", "index": 7}
        path.write_bytes(b"\xef\xbb\xbf" + json.dumps(long, ensure_ascii=False).encode())
    model = ("--model", f"folder:{images}")
    with pytest.raises(UserError, match=r"6 of 6 prompts ask for the same .* in other words .*--prompts folder scores"):
        make_plan(tmp_path / "run", *SMALL, *model)
    scores = run(folder_plan(tmp_path / "run", *model, "--prompts", "folder"))
    assert scores["images"]["n"] == 12
    assert scores["wording"] == "own wording of GenEval's cases"
    assert suite.SUITE.headline(scores)["wording"] == scores["wording"]
    assert suite.SUITE.tables(scores)[0].title.endswith("own wording of GenEval's cases")
    assert "keys that are kept but not used: 'index'" in capsys.readouterr().err
    result = lines(tmp_path / "run/results.jsonl")[0]
    assert result["prompt"].startswith("A detailed scene:\u2028")
    assert json.loads(result["metadata"])["index"] == 7
    assert lines(tmp_path / "run/results.jsonl")[0]["filename"] == lines(drawn / "results.jsonl")[0]["filename"]
    shutil.rmtree(images)
    again = run(make_plan(tmp_path / "run", *model, "--from", "verdict"))
    assert again["images"] == scores["images"], "a run keeps what its folder said"


def test_a_folders_own_prompts_may_be_anything(tmp_path):
    line = {"tag": "zoo", "include": [{"class": "dog", "count": 1}], "prompt": "a dog", "exclude": []}
    for name in ("7", "012"):
        tell(tmp_path, name, line)
        put(tmp_path / name / "samples" / "42.png")
    (tmp_path / "8").mkdir()
    put(tmp_path / "8" / "samples" / "42.png")
    plan = make_plan(tmp_path / "run", "--model", f"folder:{tmp_path}", "--prompts", "folder")
    assert [case.id for case in plan.cases] == ["00007", "00012"]
    assert [one["file"] for one in plan.sources] == ["7/samples/42.png", None, "012/samples/42.png", None]
    assert prompts.wording(plan.cases) == "own prompts"


def test_one_number_with_two_prompts_is_a_mistake_that_names_both_folders(tmp_path, capsys):
    line = {"tag": "zoo", "include": [{"class": "dog", "count": 1}], "prompt": "a dog"}
    for name in ("007", "7", "12"):
        tell(tmp_path, name, {**line, "seed": name})
        put(tmp_path / name / "samples" / "0.png")
    words = ("--model", f"folder:{tmp_path}", "--prompts", "folder")
    assert len(make_plan(tmp_path / "run", *words).cases) == 2, "equal prompts are one"
    assert "lines that repeat an earlier one: 1;" in capsys.readouterr().err, "12's, not 7's"
    for other in ({"prompt": "a cat"}, {"include": [{"class": "cat", "count": 1}]}, {"tag": "pets"}):
        tell(tmp_path, "7", {**line, **other})
        with pytest.raises(UserError, match=r"/7/metadata\.jsonl: asks for .* 007/metadata\.jsonl has the same number"):
            make_plan(tmp_path / "run", *words)


def test_who_scores_a_folder_by_its_own_prompts_is_not_told_to(tmp_path, capsys):
    line = {"tag": "zoo", "include": [{"class": "dog", "count": 1}], "prompt": "a dog"}
    for name, prompt in (("7", "a dog"), ("extra", "a lonely dog"), ("more", "a dog")):
        tell(tmp_path, name, {**line, "prompt": prompt})
        put(tmp_path / name / "samples" / "0.png")
    plan = make_plan(tmp_path / "run", "--model", f"folder:{tmp_path}", "--prompts", "folder")
    assert [case.prompt for case in plan.cases] == ["a dog"]
    said = capsys.readouterr().err
    assert "left out: 1 (extra/samples/0.png)" in said
    assert "--prompts folder scores" not in said


def test_genevals_own_prompts_from_a_folder_are_genevals(drawn, tmp_path):
    plan = make_plan(tmp_path / "run", "--model", f"folder:{drawn / 'images'}", "--prompts", "folder")
    assert prompts.wording(plan.cases) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": "x"}', r"0/metadata\.jsonl: the line has no include and no tag; expected tag, include and prompt"),
        ("[1]", r"0/metadata\.jsonl: a list; expected one JSON object with a prompt"),
        ("{", r"0/metadata\.jsonl: line 1, column 2: not JSON \(.*; expected one JSON object"),
        (None, r"has no .*00000/metadata\.jsonl"),
    ],
)
def test_bad_metadata_are_one_line(tmp_path, text, message):
    put(tmp_path / "0/samples/0.png")
    if text is not None:
        (tmp_path / "0/metadata.jsonl").write_text(text)
    with pytest.raises(UserError, match=message):
        make_plan(tmp_path / "run", "--model", f"folder:{tmp_path}", "--prompts", "folder")


def test_the_folders_prompts_need_a_folder(tmp_path):
    with pytest.raises(UserError, match="--tasks: expected names with commas between them, or a JSON list, but "):
        make_plan(tmp_path / "run", "--tasks", ",")
    with pytest.raises(UserError, match="--prompts folder is for --model folder:PATH, not for --model oracle"):
        make_plan(tmp_path / "run", "--prompts", "folder")
    (tmp_path / "folder").write_text(json.dumps(CASE.metadata) + "\n")
    assert len(make_plan(tmp_path / "run", "--prompts", str(tmp_path / "folder")).cases) == 1


# ---------------------------------------------------------------------------------------------------------------- tasks
def test_tasks_are_chosen_and_keep_their_ids(drawn, tmp_path):
    plan = make_plan(tmp_path / "a", "--tasks", "position, counting")
    assert {case.tag for case in plan.cases} == {"counting", "position"}
    assert plan.cases == [case for case in CASES if case.tag in ("counting", "position")]
    assert plan.identity == make_plan(tmp_path / "a", "--tasks", "counting,position").identity
    assert plan.identity["generate"]["tasks"] == ["counting", "position"]
    assert "tasks" not in make_plan(tmp_path / "a").identity["generate"]
    few = make_plan(tmp_path / "a", "--tasks", "counting,position", "--limit", "4")
    assert [case.tag for case in few.cases] == ["counting", "counting", "position", "position"]
    of_folder = make_plan(tmp_path / "a", "--tasks", "counting", "--model", f"folder:{drawn / 'images'}")
    assert sum(one["file"] is not None for one in of_folder.sources) == 2
    scores = run(make_plan(tmp_path / "run", "--tasks", "counting", "--limit", "2"))
    assert list(scores["tasks"]) == ["counting"]


def test_an_unknown_task_is_answered_with_the_known_ones(tmp_path):
    with pytest.raises(
        UserError, match=r"--tasks: colour is no task here; the tasks are single_object, two_object, cou"
    ):
        make_plan(tmp_path, "--tasks", "counting,colour")


def test_a_task_whose_name_has_a_comma_is_chosen_by_a_json_list(tmp_path):
    tags = ["left, right", "counting"]
    lines = [{**CASES[0].metadata, "tag": tag} for tag in (*tags, "other")]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["--prompts", str(tmp_path / "own.jsonl"), "--tasks"]
    assert [case.tag for case in make_plan(tmp_path / "a", *words, json.dumps(tags)).cases] == tags
    assert [case.tag for case in make_plan(tmp_path / "a", *words, '["left, right"]').cases] == tags[:1]
    with pytest.raises(UserError, match=r'left, right is no task here; the tasks are "left, right", counting, other'):
        make_plan(tmp_path / "a", *words, "left, right")
    for bad in ('["a"', "[1]", "[]"):
        with pytest.raises(UserError, match="JSON list"):
            make_plan(tmp_path / "a", *words, bad)


def test_categories_of_edits_are_chosen_the_same_way(tmp_path):
    words = ["--model", "oracle", "--output", str(tmp_path)]

    def plan(*more):
        return cli.make_plan(emu_edit.EmuEdit(), [*words, *more])

    every = plan()
    tag = every.cases[-1].tag
    assert plan("--tasks", tag).cases == [case for case in every.cases if case.tag == tag]


def test_a_run_over_a_folder_counts_what_is_missing(tmp_path):
    source = tmp_path / "source"
    run(make_plan(source, "--limit", "6"))
    images = sorted((source / "images").glob("*/samples/*.png"))
    images[2].unlink()
    images[7].write_bytes(b"junk")
    words = ("--model", f"folder:{source / 'images'}", "--limit", "6", "--batch-size", "4")
    scores = run(folder_plan(tmp_path / "run", *words))
    assert scores["overall"]["missing"] == 2
    assert [line["stage"] for line in lines(tmp_path / "run/failures.jsonl")] == ["generate", "generate"]
    results = lines(source / "results.jsonl")
    assert lines(tmp_path / "run/results.jsonl") == [line for i, line in enumerate(results) if i not in (2, 7)]
