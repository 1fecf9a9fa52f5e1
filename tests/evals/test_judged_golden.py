"""Numbers of the benchmarks' authors, made again without a judge by the suites' own rules from what they printed."""

import re
import statistics

import judged_kit as kit
import numpy as np
import pytest

from evals.core.records import Case, Sample, Scored
from evals.gedit import GEdit
from evals.geneval2.published import PublishedEdition
from evals.imgedit import KINDS, ImgEdit
from evals.judged.reported import mismatch, reported
from evals.judged.summaries import Judged, estimate, levels_of, point
from evals.judges.readers import labelled, named_lines
from evals.judges.scripted import any_numbers
from evals.kris import DIMENSIONS, GRADES, KNOWLEDGE, LEVELS, Kris
from evals.rise import CATEGORIES, Rise, score
from evals.suite import Context
from evals.t2i_reasonbench import T2IReasonBench
from evals.wise import TASKS, Wise, wiscore
from got.vlm.json_replies import BadReply


def parts_of(benchmark, edition, names, prefix=""):
    """Of each printed row, its model, and its parts by name."""
    tables = {name: reported(benchmark, edition, f"{prefix}{name}") for name in names}
    rows = {}
    for name, found in tables.items():
        for row in found:
            rows.setdefault((row.model, row.judge, row.edition), {})[name] = row.value
    return rows


def row(task, values, number=0):
    return Judged(task=task, subtask="", cluster=f"{task}{number}", values=values, expected=frozenset(values))


def case(task, subtask="", **facts):
    metadata = {"tag": task, "subtask": subtask, "facts": facts, "texts": {}, "group": ""}
    return Case(id="x", prompt="", tag=task, metadata=metadata)


def metric(suite, name):
    return next(one for one in suite.measures(suite.options()) if one.name == name)


# ----------------------------------------------------------------------------------------------------------------- WISE
SIZES = {"culture": 400, "time": 120, "space": 120, "biology": 120, "physics": 120, "chemistry": 120}


def test_22_of_23_rows_of_wise_verified_follow_from_whole_counts_to_four_digits():
    suite = Wise()
    printed = {(r.model, r.judge, r.edition): r for r in suite.reported("wise-verified")}
    right = 0
    for key, parts in parts_of("WISE", "Verified", TASKS.values()).items():
        counts = {task: float(value) * SIZES[task] for task, value in parts.items()}
        if any(abs(count - round(count)) > 0.005 * SIZES[task] for task, count in counts.items()):
            continue
        rows = [
            row(task, suite.combine(case(task), {"image": {"score": float(i < round(count))}}, None), i)
            for task, count in counts.items()
            for i in range(SIZES[task])
        ]
        made = point(metric(suite, "overall"), rows)
        right += abs(made - float(printed[key].value)) < 1e-4
    assert (right, len(printed)) == (22, 23)
    assert [r.model for r in printed.values() if r.note] == ["DeepGen 1.0"]


def test_wiscore_weighs_three_grades():
    grades = {"Consistency": 2, "Realism": 1, "Aesthetic Quality": 0}
    assert Wise().combine(case("time"), {"image": grades}, None) == {"score": wiscore([2, 1, 0])} == {"score": 0.8}
    assert Wise().combine(case("time"), {}, None) == {}


# ----------------------------------------------------------------------------------------------------------------- RISE
BEST = {"reasoning": 5, "plausibility": 5, "consistency": 5}


def rise_rows(counts, script):
    """Rows with so many images at best in each category; the first seven cases are free of consistency."""
    suite, rows, free = Rise(), [], {"temporal": 5, "causal": 2}
    facts = {"reference_img": False, "reasoning_img": False, "reference_txt": True, "without_question": False}
    for name, size in CATEGORIES.items():
        task = name.partition("_")[0]
        for i in range(size):
            flags = {**facts, "consistency_free": i >= size - free.get(task, 0)}
            asked = [part for part in suite.expects(case(task, **flags), None) if part in BEST]
            best = 1 if task == "logical" else 5
            scores = {part: {part: best if i < counts[task] else 1 - (task == "logical")} for part in asked}
            values = suite.combine(case(task, **flags), scores, suite.options(script=script))
            rows.append(row(task, values, i))
    return rows


@pytest.mark.parametrize(
    ("script", "edition"), [("2026.04", "360 cases; script fixed"), ("2025", "360 cases; script b")]
)
def test_every_printed_accuracy_of_risebench_is_whole_counts_of_360(script, edition):
    tasks = [name.partition("_")[0] for name in CATEGORIES]
    sizes = dict(zip(tasks, CATEGORIES.values(), strict=True))
    printed = {r.model: r for r in Rise().reported(f"risebench-360-{script}")}
    found = parts_of("RISEBench", edition, tasks, "accuracy_")
    assert len(found) == len(printed) > 15
    for (model, *_), parts in found.items():
        counts = {task: round(float(value) * sizes[task] / 100 + 1e-9) for task, value in parts.items()}
        made = 100 * point(metric(Rise(), "accuracy"), rise_rows(counts, script))
        assert made == pytest.approx(float(printed[model].value), abs=0.1), model
        assert printed[model].note == ""


@pytest.mark.parametrize(
    ("suite", "edition", "rows"),
    [
        (Rise(), "risebench-64-2026.04", False),
        (Rise(), "risebench-360-2026.04", True),
        (Kris(), "kris-1267-other-0123abcd", False),
        (Kris(), "kris-1267", True),
        (Wise(), "wise-verified-other-0123abcd", False),
        (GEdit(), "gedit-en-full-other-0123abcd", False),
        (GEdit(), "gedit-en-full", True),
        (ImgEdit(), "imgedit-basic-other-0123abcd", False),
        (PublishedEdition(), "geneval2-other-0123abcd-top20-floor1e-06", False),
        (PublishedEdition(), "geneval2-top20-floor1e-06", True),
    ],
)
def test_reported_rows_stand_beside_the_same_data_alone(suite, edition, rows):
    assert bool(suite.rows_beside(edition)) is rows


def test_cases_without_consistency_were_never_right_by_the_script_of_2025():
    full = {name.partition("_")[0]: size for name, size in CATEGORIES.items()}
    new, old = (point(metric(Rise(), "accuracy"), rise_rows(full, script)) for script in ("2026.04", "2025"))
    assert (new, old) == (1.0, pytest.approx(353 / 360))


@pytest.mark.parametrize(("model", "total"), [("BAGEL", 2.537778), ("BAGEL (w/ CoT)", 2.933333)])
def test_the_published_score_ignores_consistency_so_totals_are_multiples_of_a_fifth(model, total):
    names = [name.partition("_")[0] for name in CATEGORIES]
    parts = next(p for (m, *_), p in parts_of("RISEBench", "360 cases; script of 2025-05", names, "score_").items()
                 if m == model)  # fmt: skip
    exact = 0.0
    for name, size in zip(names, CATEGORIES.values(), strict=True):
        whole = (float(parts[name]) / 25 + 1) * size  # printed with two digits: the next multiple of 0.2 is meant
        exact += round(whole * 5) / 5
        assert abs(round(whole * 5) / 5 - whole) < 0.03
    assert exact / 360 == pytest.approx(total, abs=5e-7)
    flags = {"reference_img": False, "reasoning_img": False, "consistency_free": False}
    scores = {"consistency": {"consistency": 1}, "reasoning": {"reasoning": 4}, "plausibility": {"plausibility": 3}}
    values = Rise().combine(case("spatial", **flags), scores, Rise.options())
    assert values["published"] == pytest.approx(0.8 * 4 + 0.2 * 3)
    assert values["score"] == pytest.approx(0.3 * 1 + 0.5 * 4 + 0.2 * 3) == score({"consistency": 1, "reasoning": 4,
                                                                                   "plausibility": 3})  # fmt: skip


def test_a_case_of_which_a_part_failed_has_no_score_at_all():
    flags = {"reference_img": False, "reasoning_img": False, "consistency_free": False}
    assert Rise().combine(case("causal", **flags), {"reasoning": {"reasoning": 5}}, Rise.options()) == {}


# ----------------------------------------------------------------------------------------------------------------- KRIS
def kris_rows(parts):
    """Every case of a dimension with its printed mean in all grades."""
    rows = []
    for dimension, categories in DIMENSIONS.items():
        for category, cases in categories.items():
            grades = [name for name in GRADES if name != "KP" or category in KNOWLEDGE]
            value = float(parts[dimension])
            for i in range(cases):
                rows.append(row(dimension, {**dict.fromkeys(grades, value), "case": value}, f"{category}{i}"))
    return rows


def test_kris_has_1267_cases_in_20_categories_and_ten_of_knowledge():
    assert sum(sum(some.values()) for some in DIMENSIONS.values()) == 1267
    assert sum(map(len, DIMENSIONS.values())) == 20
    assert len(KNOWLEDGE) == 10


def test_the_authors_overall_of_kris_is_the_mean_over_cases():
    overall = metric(Kris(), "overall")
    printed = {r.model: r for r in Kris().reported("kris-1267")}
    found = parts_of("KRIS-Bench", "1267 cases; overall = item mean", DIMENSIONS)
    for (model, *_), parts in found.items():
        made = round(point(overall, kris_rows(parts)), 2)
        assert made == (39.94 if model == "Emu2" else float(printed[model].value)), model
    assert [r.model for r in printed.values() if r.note] == ["Emu2"]


def test_levels_of_kris_are_means_of_all_cases_of_their_dimensions():
    sizes = {name: sum(sum(DIMENSIONS[one].values()) for one in some) for name, some in LEVELS.items()}
    assert sizes == {"factual": 449, "conceptual": 518, "procedural": 300}
    found = parts_of("KRIS-Bench", "1267 cases; overall = item mean", DIMENSIONS)
    parts = next(parts for (model, *_), parts in found.items() if model == "GPT-4o")
    tasks = {}
    for one in kris_rows(parts):
        tasks.setdefault(one.task, []).append(one)
    blocks = levels_of(tasks, LEVELS, Kris.metrics, np.random.default_rng(0))
    assert blocks["conceptual"]["overall"]["value"] == pytest.approx((125 * 85.50 + 393 * 80.06) / 518)
    assert blocks["procedural"]["overall"]["n"] == 300
    assert "factual" not in levels_of({"social_science": tasks["social_science"]}, LEVELS, Kris.metrics,
                                      np.random.default_rng(0))  # fmt: skip


def test_bagel_s_overall_of_kris_is_the_mean_over_all_single_grades():
    found = parts_of("KRIS-Bench", "1267 cases; overall = flat", [*DIMENSIONS, "overall"])
    made = {model: point(metric(Kris(), "pooled"), kris_rows(parts)) for (model, *_), parts in found.items()}
    assert made == {"BAGEL": pytest.approx(56.21, abs=0.005), "BAGEL (w/ CoT)": pytest.approx(60.18, abs=0.012)}
    by_case = next(point(metric(Kris(), "overall"), kris_rows(p)) for (m, *_), p in found.items() if m == "BAGEL")
    assert by_case == pytest.approx(56.40, abs=0.005)


def test_a_case_of_kris_that_lacks_a_grade_counts_and_is_missing_and_has_bounds():
    expected = Kris().expects(case("x", "count_change"), None)
    values = [{"VC": 100.0, "IF": 50.0, "VQ": 0.0, "case": 50.0}, {"VC": 100.0, "VQ": 0.0, "case": 50.0}, {}]
    rows = [Judged(task="a", subtask="", cluster=str(i), values=one, expected=expected) for i, one in enumerate(values)]
    found = estimate(metric(Kris(), "overall"), rows, np.random.default_rng(0))
    assert (found["value"], found["n"], found["missing"]) == (50.0, 2, 2)
    assert found["bounds"] == [pytest.approx((50 + 100 / 3 + 0) / 3), pytest.approx((50 + 200 / 3 + 100) / 3)]


def test_kris_turns_grades_into_percent_and_leaves_failed_ones_out():
    scores = {"consistency": {"consistency_score": 5}, "instruction": {"instruction_score": 3, "knowledge_score": 1}}
    assert Kris().combine(case("x"), scores, None) == {"VC": 100, "IF": 50, "KP": 0, "case": 50}


# -------------------------------------------------------------------------------------------------------------- ImgEdit
def test_9_of_the_12_rows_of_imgedit_are_the_macro_mean_of_nine_kinds():
    names = ["hybrid" if kind == "compose" else kind for kind in KINDS]
    rows = {
        k: parts for k, parts in parts_of("ImgEdit-Bench", "basic", [*names, "overall"]).items() if k[1] == "gpt-4.1"
    }
    assert len(rows) == 12
    fits = []
    for (model, *_), parts in rows.items():
        made = point(metric(ImgEdit(), "overall"), [row(name, {"score": float(parts[name])}) for name in names])
        fits += [model] * (abs(made - float(parts["overall"])) <= 0.0051)
    assert len(fits) == 9
    flagged = [r.model for r in ImgEdit().reported("imgedit-basic") if r.judge == "gpt-4.1" and r.note]
    assert len(flagged) == 3


IMGEDIT_SIZES = {"extract": 117, "style": 100, "add": 95, "adjust": 94, "background": 94, "replace": 92, "remove": 86,
                 "action": 36, "hybrid": 23}  # fmt: skip
"""Edits of each kind in the published set."""


def test_the_other_three_rows_of_imgedit_are_no_mean_over_cases_either():
    found = parts_of("ImgEdit-Bench", "basic", [*IMGEDIT_SIZES, "overall"])
    made = {}
    for (model, judge, _), parts in found.items():
        if judge == "gpt-4.1":
            rows = [row(kind, {"score": float(parts[kind])}, i) for kind, n in IMGEDIT_SIZES.items() for i in range(n)]
            made[model] = [point(metric(ImgEdit(), name), rows) for name in ("overall", "over edits")]
    assert sum(IMGEDIT_SIZES.values()) == 737
    assert len(made) == 12
    odd = {"Kontext-dev": (3.73, 3.68), "Ovis-U1": (3.99, 3.96), "GPT-4o-Image": (4.24, 4.19)}
    assert {model: made[model] for model in odd} == {m: pytest.approx(ends, abs=0.0051) for m, ends in odd.items()}
    printed = {model: float(parts["overall"]) for (model, judge, _), parts in found.items() if judge == "gpt-4.1"}
    assert {m for m, ends in made.items() if min(abs(end - printed[m]) for end in ends) > 0.0051} == odd.keys()


@pytest.mark.parametrize("read", [any_numbers, named_lines(["A", "B", "C"], (1, 5))])
@pytest.mark.parametrize("text", ["{'error': 'rate limit', 'code': 429}", '{"A": 4, "B": 3, "C": 5}', ""])
def test_a_failed_call_that_stands_where_a_reply_should_be_is_no_grade(read, text):
    with pytest.raises(BadReply):
        read(text)


@pytest.mark.parametrize(
    ("text", "official", "sane"),
    [
        ("Why.\nA: 4\nB: 3\nC: 5", [4, 3, 5], [4, 3, 5]),
        ("**A:** 4\n**B:** 3\n**C:** 5", None, [4, 3, 5]),
        ("A: 4/5\nB: 3/5\nC: 5/5", None, [4, 3, 5]),
        ("A: 4\nB: 3", [4, 3], None),
        ("A: 4\nB: 3\nC: 12", [4, 3, 12], None),
        ("Note: 7\nA: 4\nB: 3\nC: 5", [7, 4, 3, 5], [4, 3, 5]),
    ],
)
def test_imgedit_s_own_way_of_reading_takes_less_and_more_than_three_lines(text, official, sane):
    for read, expected in ((any_numbers, official), (named_lines(["A", "B", "C"], (1, 5)), sane)):
        if expected is None:
            with pytest.raises(BadReply):
                read(text)
        else:
            assert list(read(text).values()) == expected


def test_no_grade_may_exceed_the_first_and_that_is_counted():
    values = ImgEdit().combine(case("add"), {"edit": {"A": 2, "B": 5, "C": 1}}, None)
    assert values == {"score": 2.67, "capped": 1.67, "exceeds": 1.0}


# ---------------------------------------------------------------------------------------------------------------- GEdit
def test_gedit_is_macro_over_tasks_and_takes_the_lower_scores():
    scores = {"consistency": {"success": 9, "restraint": 4}, "quality": {"naturalness": 9, "cleanness": 10}}
    assert GEdit().combine(case("a"), scores, None) == {"SC": 4, "PQ": 9, "O": 6}
    assert GEdit().combine(case("a"), {"quality": scores["quality"]}, None) == {"PQ": 9}
    rows = [row("text_change", {"O": 2.0}, i) for i in range(99)] + [
        row("tone_transfer", {"O": 8.0}, i) for i in range(40)
    ]
    assert point(metric(GEdit(), "G_O"), rows) == 5.0
    assert point(metric(GEdit(), "O over edits"), rows) == pytest.approx((99 * 2 + 40 * 8) / 139)


def test_an_image_that_recurs_across_tasks_is_drawn_with_all_its_edits():
    """Twelve images, each in three tasks with one value: the interval is that of twelve, not of 36."""
    values = np.random.default_rng(1).uniform(0, 10, 12)

    def rows(cluster):
        return [
            Judged(task=task, subtask="", cluster=cluster(task, i), values={"O": v}, expected=frozenset("O"))
            for task in "abc"
            for i, v in enumerate(values)
        ]

    widths = []
    for one in (rows(lambda _, i: str(i)), rows(lambda task, i: f"{task}{i}")):
        found = estimate(metric(GEdit(), "G_O"), one, np.random.default_rng(0))
        widths.append(found["high"] - found["low"])
        assert found["value"] == pytest.approx(values.mean())
    assert widths[0] / widths[1] == pytest.approx(3**0.5, rel=0.1)


def test_both_scores_of_a_run_have_one_interval_of_one_rule(tmp_path):
    """Edits of different images are cases of their own, also where all their words are the same."""
    suite, root = Rise(), kit.rise(tmp_path)
    path = root / "datav2_total_w_subtask.json"
    path.write_text(re.sub(r'"(do edit|it is) \d+"', r'"\1"', path.read_text()))
    options = suite.options(data=root, allow_other_data=True)
    cases = [item.as_case() for item in suite.load(root, options).items]
    scored = []
    for i, one in enumerate(cases):
        best = 1 if one.tag == "logical" else 5
        scores = {name: {name: best - i % 3 // 2} for name in ("consistency", "reasoning", "plausibility")}
        seen = {"answers": [{"judge": "j", "scores": scores, "failures": {}, "calls": 1, "tokens_in": 1,
                             "tokens_out": 1, "usd": None}], "floor": []}  # fmt: skip
        score = suite.score(one, seen, options)
        scored.append(Scored(sample=Sample(case=one, index=0, seed=0), observation=seen, score=score))
    context = Context(model="m", checkpoint=None, detector="", world="photographs", images_per_prompt=1, seed=0)
    found = suite.summarize(cases, scored, [], options, context)
    plain, judged = found["overall"]["score"], found["metrics"]["all"]["accuracy"]
    assert plain == {name: judged[name] for name in plain}
    assert plain["clusters"] == 12
    assert 0 < plain["low"] < plain["value"] < plain["high"] < 1


def test_what_gedit_s_judge_does_not_say_is_missing_and_never_random():
    known = row("a", {"O": 6.0})
    lost = Judged(task="a", subtask="", cluster="b", values={}, expected=frozenset({"O"}))
    by_end = [point(metric(GEdit(), "G_O"), [known, lost], end) for end in (None, 0, 10)]
    assert by_end == [6, 3, 8]


# ------------------------------------------------------------------------------------------------------ T2I-ReasonBench
def test_all_overalls_of_t2i_reasonbench_are_plain_means_of_four_parts():
    rows = T2IReasonBench().reported("t2i-reasonbench")
    assert (len(rows), [r.note for r in rows if r.note]) == (14, [])
    assert next(r.value for r in rows if r.model.startswith("GoT")) == "32.0"
    scores = {"description": {}, "entity_evaluation": {"q1": 1, "q2": 0.5}, "other_details_evaluation": {"q1": 0},
              "quality_evaluation": {"q1": 1}}  # fmt: skip
    values = T2IReasonBench().combine(case("entity"), scores, None)
    assert values == {"quality": 1, "accuracy": pytest.approx(0.7 * statistics.fmean([1, 0.5]))}
    del scores["other_details_evaluation"]
    assert T2IReasonBench().combine(case("entity"), scores, None) == {"quality": 1}


def test_a_score_behind_its_label_is_the_last_one_that_is_said():
    read = labelled("Final Score", ["n"], (1, 5))
    texts = ("final scores: 3", "**Final Score**: 4/5", "Final Score: 1\nFinal Score: 2")
    assert [read(text)["n"] for text in texts] == [3, 4, 2]


def test_a_printed_overall_may_be_off_by_its_own_rounding_only():
    assert mismatch("0.57", {"a": "0.57"}, {"a": 1}) == ""
    assert mismatch("0.59", {"a": "0.57"}, {"a": 1}) == "its parts give 0.570"
