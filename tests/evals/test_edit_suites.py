"""The icon world's editions of the editing suites, measured by the embedded detector."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from evals import emu_edit, imagenhub, interactive, multi_turn, reason_edit
from evals.core.records import JudgeQuestion, Sample, UserError
from evals.editing import icon_cases
from evals.editing.suite import as_case
from evals.generators.got import given_chain
from evals.harness import cli
from evals.judges import detection_scores
from evals.metrics.boxes import iou_matrix
from evals.metrics.edits import EditChecks
from got.iconworld import INTERVENTIONS, sample_intervention, stable_rng
from got.plan.chain import Chain

SUITES = {"emu_edit": emu_edit, "imagenhub": imagenhub, "reason_edit": reason_edit}


@pytest.fixture(scope="module")
def tools():
    from evals.detectors.registry import make_detector
    from evals.embedders.registry import make_embedder

    return make_detector("icon"), make_embedder("icon")


@pytest.mark.parametrize("name", SUITES)
def test_an_edition_has_its_cases_with_images_masks_and_captions(name):
    found = icon_cases.icon_set(name)
    assert len(found.cases) == icon_cases.COUNTS[name]
    assert found.ids_sha256 == icon_cases.icon_set.__wrapped__(name).ids_sha256
    kinds = {case.category for case in found.cases[:8]}
    assert kinds == {case.category for case in found.cases}, "any beginning has all kinds"
    for case in found.cases[:16]:
        source, target = np.asarray(case.source.load()), np.asarray(case.target.load())
        mask = case.mask.load_mask()
        assert source.shape == target.shape == (128, 128, 3)
        differs = np.abs(source.astype(int) - target).max(-1) > 40
        spill = 0.1 if case.category == "background" else 0.03  # the ground shows through boxes that stay
        assert (differs & ~mask).sum() <= spill * max(differs.sum(), 1), case.id
        assert case.captions["source"].startswith("a photo of ")
        assert case.captions["target"] != case.captions["source"] or case.category == "move"
        json.dumps(case.extra)


@pytest.mark.parametrize("name", SUITES)
def test_floor_and_ceiling(name, tools):
    cases = icon_cases.icon_set(name).cases[:40]
    targets = [case.target.load() for case in cases]
    chains = [case.extra["chain"] for case in cases]
    found = detection_scores.measure(cases, targets, chains, *tools)
    scores = [
        detection_scores.score(detection_scores.truth_of(case), seen) for seen, case in zip(found, cases, strict=True)
    ]
    summed = detection_scores.summarize(scores, [case.id for case in cases])
    assert summed["plans_right"] == 1
    for share in ("edit done", "rest untouched", "both"):
        assert summed["shares"][share]["value"] == summed["shares"][share]["target"] >= 0.9
    assert summed["shares"]["edit done"]["identity"] == 0
    assert summed["shares"]["rest untouched"]["identity"] >= 0.95


def test_a_wrong_result_is_traced_to_its_plan_or_its_drawing(tools):
    case = next(c for c in icon_cases.icon_set("emu_edit").cases if c.category == "remove")
    source, truth = case.source.load(), detection_scores.truth_of(case)
    keeps = "the image shows nothing . the background becomes green . now there is nothing"
    stages = []
    for image, chain in ((source, case.extra["chain"]), (source, keeps), (source, "nonsense"), (source, None)):
        (found,) = detection_scores.measure([case], [image], [chain], *tools)
        score = detection_scores.score(truth, found)
        assert (score.correct, score.reason) == (False, f"not so: {truth.erased[0].name} is gone")
        stages.append(score.fault)
    assert stages == ["drawing_wrong", "plan_wrong", "plan_wrong", None]
    (found,) = detection_scores.measure([case], [case.target.load()], [case.extra["chain"]], *tools)
    score = detection_scores.score(truth, found)
    assert (score.correct, score.reason, score.fault) == (True, "", None)


@given(
    edit=st.lists(st.booleans(), min_size=1), rest=st.lists(st.booleans()), kept=st.floats(0, 1), index=st.integers(0)
)
def test_undoing_never_helps_and_touching_never_helps(edit, rest, kept, index):
    def scores(edit, rest, kept):
        checks = EditChecks(edit=dict(enumerate(edit)), rest=dict(enumerate(rest)))
        return detection_scores.measured_scores(checks, kept)

    before = scores(edit, rest, kept)
    assert all(0 <= value <= 10 for value in before.values())
    undone = [False if i == index % len(edit) else value for i, value in enumerate(edit)]
    assert scores(undone, rest, kept)["success"] <= before["success"]
    assert scores(undone, rest, kept)["preservation"] == before["preservation"]
    touched = [False if i == index % len(rest) else value for i, value in enumerate(rest)]
    assert scores(edit, touched, kept)["preservation"] <= before["preservation"]
    assert scores(edit, rest, kept / 2)["preservation"] <= before["preservation"]


def test_the_measured_judge_tells_target_source_and_damage_apart(tools):
    cases = [c for c in icon_cases.icon_set("imagenhub").cases if c.category == "texture"][:3]
    judge = detection_scores.MeasuredJudge(*tools)
    for case in cases:
        source, target = case.source.load(), case.target.load()
        damaged = target.copy()
        damaged.paste(Image.new("RGB", (64, 20), "black"), (0, 0))
        ask = [JudgeQuestion(case=case, source=source, result=image) for image in (target, source, damaged)]
        done, untouched, worse = judge.judge(ask)
        assert done.value == pytest.approx(1.0)
        assert untouched.scores_0_10 == {"success": 5.0, "preservation": 10.0}
        assert worse.scores_0_10["preservation"] < done.scores_0_10["preservation"]
        assert {one.judge for one in (done, untouched, worse)} == {judge.name}


@given(seed=st.integers(0, 10**9), kind=st.sampled_from(INTERVENTIONS))
def test_a_changed_plan_differs_in_one_region(seed, kind):
    edit = sample_intervention(stable_rng("interventions", seed), kind)
    (old,), (new,) = edit.erased, edit.drawn
    regions = Chain.parse(edit.chain).regions
    assert Chain.parse(edit.chain).warnings == ()
    assert len(regions) == len(edit.source.objects) == len(edit.kept) + 1
    assert [r.box_1000 for r in regions] == [o.box_1000 for o in edit.target.objects]
    changed = {"replace": "name", "move": "box_1000", "recolor": "color"}[kind]
    assert getattr(old, changed) != getattr(new, changed)
    if kind == "move":
        assert iou_matrix([new.box_1000], [o.box_1000 for o in edit.kept]).sum() == 0
        assert (old.name, old.color) == (new.name, new.color)
    else:
        assert old.box_1000 == new.box_1000


def test_an_unknown_intervention_is_refused():
    with pytest.raises(ValueError, match="Expected one of replace, move, recolor"):
        sample_intervention(stable_rng("x"), "explode")


@pytest.mark.parametrize(
    "suite", [emu_edit.EmuEdit(), interactive.Interactive(), multi_turn.MultiTurn()], ids=lambda suite: suite.name
)
def test_the_suite_runs_from_command_line_to_table(suite, tmp_path, capsys):
    run = tmp_path / "run"
    assert cli.main(suite, ["--model", "oracle", "--limit", "7", "--judge", "measured", "--output", str(run)]) == 0
    out = capsys.readouterr().out
    assert "Edits that a detector finds done, and the rest untouched" in out
    headline = json.loads(out.strip().splitlines()[-1])
    assert headline["world"] == "icon world"
    assert headline["measured"]["both"] >= 0.8
    assert headline["judge"]["name"] == "got/measured@1"
    scores = json.loads((run / "scores.json").read_text())
    assert scores["overall"]["measured"]["shares"]["edit done"]["identity"] == 0
    assert list((run / "sheets").glob("*.png"))
    again = cli.main(suite, ["--model", "oracle", "--limit", "7", "--judge", "measured", "--output", str(run)])
    assert again == 0


def test_reason_edit_pools_understanding_and_takes_lpips_as_smartedit_does(tmp_path, capsys):
    weights = tmp_path / "squeeze.pth"
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), weights)
    words = ["--model", "target", "--limit", "6", "--lpips", f"squeeze:{weights}", "--output", str(tmp_path / "run")]
    assert cli.main(reason_edit.ReasonEdit(), words) == 0
    assert "understanding, pooled" in capsys.readouterr().out
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "run" / "observations.jsonl").read_text().splitlines()]
    first = [line for line in lines if line["category"] != "reasoning"]
    pooled = scores["pooled"]["understanding"]
    assert pooled["images"] == len(first) == 5
    for name in ("smartedit/l2", "smartedit/lpips@lpips-squeeze", "source/l1"):
        assert pooled["metrics"][name]["value"] == pytest.approx(np.mean([line["metrics"][name] for line in first]))
    lpips = scores["overall"]["metrics"]["smartedit/lpips@lpips-squeeze"]
    assert (lpips["value"] > 0, lpips["identity"]) == (True, 0)


def test_got_is_given_the_source_or_the_changed_plan(tmp_path, capsys):
    for suite in (emu_edit.EmuEdit(), interactive.Interactive()):
        run = tmp_path / suite.name
        assert cli.main(suite, ["--model", "got", "--limit", "2", "--steps", "1", "--output", str(run)]) == 0
        capsys.readouterr()
        chains = [json.loads(line)["chain"] for line in (run / "chains.jsonl").read_text().splitlines()]
        cases = {case.id: case for case in cli.make_plan(suite, ["--model", "got"]).cases}
        observations = [json.loads(line) for line in (run / "observations.jsonl").read_text().splitlines()]
        assert len(chains) == len(observations) == 2
        given = [cases[line["case"]].edit.extra.get("given_chain") for line in observations]
        if isinstance(suite, interactive.Interactive):
            assert sorted(chains) == sorted(given)
        else:
            assert given == [None] * 2
        results = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
        assert all(dataclasses.is_dataclass(cases[line["case"]]) for line in results)


def test_what_needs_the_truth_of_the_icon_world_says_so():
    case = icon_cases.icon_set("emu_edit").cases[0]
    published = dataclasses.replace(case, extra={})
    with pytest.raises(UserError, match="--judge measured needs the icon world's edition"):
        detection_scores.truth_of(published)
    sample = Sample(case=as_case(published), index=0, seed=0)
    with pytest.raises(UserError, match="--chain oracle needs the icon world's edition"):
        given_chain("oracle", sample)
