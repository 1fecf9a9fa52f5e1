"""GenEval 2's icon edition: its prompts, its exact answers, and runs of it from prompt to table."""

from __future__ import annotations

import collections
import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from evals.core.records import Case, Detection
from evals.geneval2 import atoms, icon_cases, scores
from evals.geneval2.suite import GenEval2, Options
from evals.harness import cli
from got import iconworld
from got.iconworld.placing import place_groups, stands
from got.util.files import write_atomic
from got.util.images import png_bytes

CASES = icon_cases.cases()


def seen(name, x, y, *, score=1.0, color=None, side=20):
    return Detection(name=name, score=score, box_xyxy_px=(x, y, x + side, y + side), color=color)


def asked(*include):
    questions = icon_cases.questions(include)
    return {
        "include": list(include),
        "vqa_list": [[question, answer] for question, answer, _ in questions],
        "skills": [skill for *_, skill in questions],
    }


def right(include, detections, threshold=0.5):
    return [one.right for one in atoms.answers(asked(*include), detections, threshold, 0.1)]


# -------------------------------------------------------------------------------------------------------------- prompts
def test_there_are_fifty_prompts_of_each_number_of_atoms():
    assert collections.Counter(case.metadata["atom_count"] for case in CASES) == dict.fromkeys(range(3, 11), 50)
    assert len({case.prompt for case in CASES}) == len({case.id for case in CASES}) == 400


@pytest.mark.parametrize("case", CASES[::23], ids=lambda case: case.id)
def test_a_prompt_asks_for_as_many_atoms_as_it_says(case):
    include, line = case.metadata["include"], case.metadata
    extra = sum((item["count"] > 1) + ("color" in item) + ("position" in item) for item in include)
    ones = sum(answer == "one" for _, answer in line["vqa_list"])
    assert len(include) + extra == line["atom_count"] == len(line["vqa_list"]) - ones
    assert len(line["vqa_list"]) == len(line["skills"])
    assert sum(item["count"] for item in include) <= icon_cases.MOST_OBJECTS
    assert len({item["class"] for item in include}) == len(include)


def test_every_prompt_is_in_words_that_mini_knows():
    known = {*iconworld.vocabulary(edits=True)}
    assert {word for case in CASES for word in case.prompt.replace(",", "").split()} <= known


# -------------------------------------------------------------------------------------------------------------- placing
def test_every_scene_that_is_asked_for_can_be_drawn():
    for case, seed in itertools.product(CASES[3::23], (0, 1)):
        include = case.metadata["include"]
        scene = iconworld.scene_from_include(include, seed)
        counts = collections.Counter(item.name for item in scene.objects)
        assert counts == {item["class"]: item["count"] for item in include}
        of = {i["class"]: [o.box_1000 for o in scene.objects if o.name == i["class"]] for i in include}
        for item in include:
            if "position" in item:
                relation, target = item["position"]
                assert stands(of[item["class"]], relation, of[include[target]["class"]])


@given(st.integers(0, 10**6), st.lists(st.integers(1, 4), min_size=2, max_size=3), st.data())
def test_groups_stand_as_asked_and_do_not_overlap(seed, counts, data):
    names = st.sampled_from(["left of", "right of", "above", "below"])
    wanted = [(0, data.draw(names), 1), *([(2, data.draw(names), 1)] if len(counts) == 3 else [])]
    if sum(counts) > 9:
        counts = [min(count, 3) for count in counts]
    group_of = [group for group, count in enumerate(counts) for _ in range(count)]
    boxes = place_groups([1.0] * len(group_of), group_of, wanted, np.random.default_rng(seed))
    groups = [[box for box, at in zip(boxes, group_of, strict=True) if at == n] for n in range(len(counts))]
    assert all(stands(groups[a], name, groups[b]) for a, name, b in wanted)
    for a, b in itertools.combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_relations_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="relations that can be drawn"):
        place_groups([1.0] * 3, [0, 1, 2], [(0, "above", 1), (0, "below", 1)], np.random.default_rng(0))


# -------------------------------------------------------------------------------------------------------------- answers
DOGS = {"class": "dog", "count": 2, "color": "red"}
CAT = {"class": "cat", "count": 1}
LEFT = {**DOGS, "position": ["left of", 1]}


@pytest.mark.parametrize(
    ("detections", "expected"),
    [
        ([seen("dog", 0, 0, color="red"), seen("dog", 0, 50, color="red"), seen("cat", 80, 20)], [1, 1, 1, 1, 1, 1]),
        ([seen("dog", 0, 0, color="red"), seen("cat", 80, 0)], [1, 0, 1, 1, 1, 1]),
        ([seen("dog", 0, 0, color="red"), seen("dog", 0, 50, color="blue"), seen("cat", 80, 20)], [1, 1, 0, 1, 1, 1]),
        ([seen("dog", 0, 0, color="red"), seen("dog", 99, 0, color="red"), seen("cat", 50, 0)], [1, 1, 1, 0, 1, 1]),
        ([seen("dog", 0, y, color="red") for y in (0, 40, 80)] + [seen("cat", 80, 40)], [1, 0, 1, 1, 1, 1]),
        ([seen("cat", 80, 0), seen("cat", 80, 40)], [0, 0, 0, 0, 1, 0]),
        ([], [0] * 6),
    ],
)  # fmt: skip
def test_each_atom_is_answered_by_itself(detections, expected):
    assert right([LEFT, CAT], detections) == [bool(one) for one in expected]


def test_detections_below_the_threshold_do_not_count():
    found = [seen("cat", 0, 0), seen("cat", 50, 0, score=0.4)]
    assert right([CAT], found) == [True, True]
    assert right([CAT], found, threshold=0.3) == [True, False]


@given(st.lists(st.floats(0, 1), max_size=8))
def test_the_number_of_real_objects_agrees_with_counting_all_cases(values):
    naive = np.zeros(len(values) + 1)
    for there in itertools.product((0, 1), repeat=len(values)):
        naive[sum(there)] += math.prod(p if one else 1 - p for p, one in zip(values, there, strict=True))
    assert atoms.number_of(values) == pytest.approx(naive)


@given(
    st.lists(st.sampled_from([(x, y) for x in (0, 40, 80) for y in (0, 40, 80)]), unique=True, max_size=5), st.data()
)
def test_soft_and_hard_answers_agree_where_scores_are_certain(places, data):
    kinds = st.sampled_from([("dog", "red"), ("dog", "blue"), ("cat", None)])
    drawn = [(data.draw(kinds), place) for place in places]
    found = [seen(name, *place, color=color) for (name, color), place in drawn]
    for answer in atoms.answers(asked(LEFT, CAT), found, 0.5, 0.1):
        assert answer.probability == float(answer.right)


# ---------------------------------------------------------------------------------------------------- scores and runs
def test_geometric_means_of_yes_and_no_say_whether_all_are_right():
    assert atoms.geometric([1.0, 1.0]) == 1.0
    assert atoms.geometric([1.0, 0.0]) == 0.0
    assert atoms.geometric([0.3, 1 + 1e-7, 0.9]) == pytest.approx(float(np.prod([0.3, 1 + 1e-7, 0.9])) ** (1 / 3))


def run_of(tmp_path, capsys, *words):
    code = cli.main(GenEval2, ["--output", str(tmp_path / "run"), *words])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    return code, told, json.loads((tmp_path / "run" / "scores.json").read_bytes())


def test_the_oracle_has_every_atom_right_and_later_thresholds_are_tried_from_the_log(tmp_path, capsys):
    code, told, found = run_of(tmp_path, capsys, "--model", "oracle", "--limit", "8")
    assert (code, told["overall"], told["detector"]) == (0, 1.0, "icon-fine")
    assert list(found["tasks"]) == [icon_cases.tag_of(atoms) for atoms in range(3, 11)]
    skills = found["overall"]["skills"]
    assert skills["count"]["hard"]["n"] == skills["count, one"]["hard"]["n"] + skills["count, more"]["hard"]["n"]
    assert found["overall"]["layout"]["iou"]["value"] > 0.8
    line = json.loads((tmp_path / "run" / "results.jsonl").read_text().splitlines()[0])
    assert all(line["answers"])
    assert len(line["answers"]) == len(line["probabilities"])
    _, told, _ = run_of(tmp_path, capsys, "--from", "verdict", "--threshold", "0.999999999")
    assert told["overall"] < 1.0


def test_blank_images_have_nothing_right(tmp_path, capsys):
    for case in CASES[:400:100]:
        write_atomic(tmp_path / "blank" / case.id / "samples" / "0000.png", png_bytes(Image.new("RGB", (128, 128))))
    folder = ["--model", f"folder:{tmp_path / 'blank'}", "--detector", "icon-fine"]
    _, told, found = run_of(tmp_path, capsys, *folder, "--limit", "4", "--tasks", "03_atoms,05_atoms,07_atoms,09_atoms")
    assert told["overall"] == told["values"]["am"] == 0.0
    assert found["overall"]["faults"]["no_plan"] == 4


def drawn_outcome(plan, image, exact):
    """An outcome of one question, of a plan, an image and an exact drawing that have it right or not."""
    made = [None if one is None else (answer(one),) for one in (image, plan, exact)]
    return scores.Outcome(correct=image, answers=made[0], in_plan=made[1], in_exact=made[2])


def answer(good):
    return atoms.Answer(skill="object", wanted="Yes", right=good, probability=float(good))


@pytest.mark.parametrize(
    ("plan", "image", "exact", "fault"),
    [(True, True, None, None), (False, False, None, "plan_wrong"), (True, False, True, "drawing_wrong"),
     (True, False, False, "detector_doubt"), (True, False, None, "unchecked"), (None, False, None, "no_plan")],
)  # fmt: skip
def test_each_wrong_answer_is_traced_to_where_it_went_wrong(plan, image, exact, fault):
    assert drawn_outcome(plan, image, exact).answer_faults == [fault]


def test_skills_pool_questions_rather_than_means_of_prompts():
    def outcome(*rights):
        return scores.Outcome(correct=all(rights), answers=tuple(map(answer, rights)))

    groups = [("a", [outcome(True)]), ("b", [outcome(False, False, False)])]
    block = scores.by_skill(groups, np.random.default_rng(0))["object"]
    assert (block["hard"]["value"], block["soft"]["value"], block["hard"]["clusters"]) == (0.25, 0.25, 2)


def test_a_score_is_pure_and_counts_colours_only_where_they_are_asked():
    case = Case(id="0", prompt="", tag="03_atoms", metadata=asked(CAT, {"class": "dog", "count": 2}))
    found = [seen("cat", 0, 0), seen("dog", 40, 0), seen("dog", 80, 0), seen("person", 0, 60)]
    observation = {"width": 128, "height": 128, "plan": None,
                   "detections": [{"name": one.name, "score": one.score, "box_xyxy_px": list(one.box_xyxy_px),
                                   "color": None} for one in found]}  # fmt: skip
    score = GenEval2().score(case, observation, Options())
    assert score.correct
    assert set(score.kept) == {"cat", "dog"}
    assert score.values == {"am": 1.0, "soft_am": 1.0, "soft_gm": 1.0}
