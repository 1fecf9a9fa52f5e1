"""Summaries of judgements, and agreement with people, against scipy, plain loops and numbers worked out by hand."""

import functools
import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evals import judge_agreement
from evals.core.records import Judgement, UserError
from evals.metrics import judging
from evals.metrics.agreement import krippendorff_alpha, rank_correlations


def judged(value, repeat=0, judge="got@m#1"):
    if isinstance(value, str):
        return Judgement(judge=judge, repeat=repeat, failure=value, calls=4)
    return Judgement(judge=judge, repeat=repeat, scores_0_10={"success": 10 * value}, value=value, calls=1)


def summary(values, **options):
    cases = [[judged(value)] for value in values]
    return judging.summarize(cases, [str(i) for i in range(len(cases))], np.random.default_rng(0), **options)


# ------------------------------------------------------------------------------------------------------------ summaries
def test_a_headline_is_refused_above_five_percent_of_failures_unless_asked_for():
    nineteen = [0.5] * 19
    assert summary([*nineteen, "refusal"])["headline"] == 0.5
    refused = summary([*nineteen, "refusal", "unparsable"])
    assert refused["headline"] is None
    assert refused["score"]["value"] == 0.5
    assert refused["failed"] == {"refusal": 1, "unparsable": 1}
    assert summary([*nineteen, "refusal", "unparsable"], max_failed=1.0)["headline"] == 0.5


@given(st.lists(st.one_of(st.floats(0, 1), st.sampled_from(sorted(judging.CAUSES))), min_size=1, max_size=30))
def test_failures_are_counted_and_the_truth_lies_within_the_bounds(values):
    found = summary(values, resamples=20)
    failed = [value for value in values if isinstance(value, str)]
    assert sum(found["failed"].values()) == len(failed)
    assert found["score"]["n"] == len(values) - len(failed)
    low, high = found["bounds"]
    for filled in (0.0, 0.3, 1.0):
        mean = np.mean([filled if isinstance(value, str) else value for value in values])
        assert low - 1e-9 <= mean <= high + 1e-9


def test_with_nothing_judged_there_is_no_score_at_all():
    found = summary(["transport"] * 3)
    assert (found["headline"], found["score"]["value"], found["bounds"]) == (None, None, (0.0, 1.0))


def test_the_mean_of_minima_is_not_the_minimum_of_means():
    pair = [{"success": 2, "restraint": 10}, {"success": 10, "restraint": 2}]
    cases = [
        [Judgement(judge="j", scores_0_10=scores, value=judging.minimum(list(scores.values())))] for scores in pair
    ]
    found = judging.summarize(cases, ["a", "b"], np.random.default_rng(0))
    assert found["score"]["value"] == pytest.approx(0.2)
    assert found["parts"] == {"success": 6, "restraint": 6}


def test_repeats_tell_how_much_the_judge_wavers_and_weigh_as_one_case():
    cases = [[judged(v, i) for i, v in enumerate(values)] for values in ((0.2, 0.4, 0.6), (0.8, 0.8, "refusal"))]
    found = judging.summarize(cases, ["a", "b"], np.random.default_rng(0))
    assert found["score"]["value"] == pytest.approx((0.4 + 0.8) / 2)
    assert found["judge_sd"] == pytest.approx(np.sqrt((0.04 + 0 + 0.04 + 0 + 0) / 3))
    assert found["calls"] == 5 + 4


def test_two_judges_do_not_share_a_column():
    with pytest.raises(UserError, match=r"judgements of .* and .*--from observe"):
        judging.summarize([[judged(0.1)], [judged(0.2, judge="got@n#1")]], ["a", "b"], np.random.default_rng(0))


# --------------------------------------------------------------------------------------------------------- correlations
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 10)), min_size=2, max_size=25), st.integers(0, 99))
def test_rank_correlations_are_scipys_for_the_sample_and_for_a_resample(pairs, seed):
    x, y = np.array(pairs, float).T
    drawn = np.random.default_rng(seed).multinomial(len(x), np.full(len(x), 1 / len(x)))
    rho, tau = rank_correlations(x, y, np.stack([np.ones(len(x)), drawn]))
    for k, (a, b) in enumerate([(x, y), (np.repeat(x, drawn), np.repeat(y, drawn))]):
        if len(set(a)) < 2 or len(set(b)) < 2:
            assert np.isnan(rho[k])
            assert np.isnan(tau[k])
        else:
            assert rho[k] == pytest.approx(stats.spearmanr(a, b).statistic)
            assert tau[k] == pytest.approx(stats.kendalltau(a, b).statistic)


def alpha_by_hand(ratings):
    """Krippendorff's definition, pair by pair: ordinal distance, disagreement observed over disagreement expected."""
    units = [[v for v in unit if not np.isnan(v)] for unit in ratings.T]
    units = [unit for unit in units if len(unit) > 1]
    values = [v for unit in units for v in unit]
    count = {v: values.count(v) for v in values}

    def distance(a, b):
        low, high = min(a, b), max(a, b)
        return (sum(n for v, n in count.items() if low <= v <= high) - (count[a] + count[b]) / 2) ** 2

    observed = sum(
        distance(unit[i], unit[j]) / (len(unit) - 1)
        for unit in units
        for i, j in itertools.permutations(range(len(unit)), 2)
    ) / len(values)
    expected = sum(distance(values[i], values[j]) for i, j in itertools.permutations(range(len(values)), 2))
    return 1 - observed / (expected / (len(values) * (len(values) - 1)))


@pytest.mark.parametrize("seed", range(5))
def test_alpha_is_krippendorffs_definition_with_missing_ratings(seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, 20)
    ratings = np.clip(truth + rng.integers(-1, 2, (3, 20)), 0, 2) / 2.0
    ratings[rng.random(ratings.shape) < 0.2] = np.nan
    assert krippendorff_alpha(ratings)[0] == pytest.approx(alpha_by_hand(ratings))
    drawn = rng.multinomial(20, np.full(20, 1 / 20))
    resampled = krippendorff_alpha(ratings, drawn[None])[0]
    assert resampled == pytest.approx(alpha_by_hand(np.repeat(ratings, drawn, axis=1)))


def test_alpha_without_spread_is_undefined():
    assert np.isnan(krippendorff_alpha([[1, 1], [1, 1]])[0])


# ---------------------------------------------------------------------------------------------------------------- files
@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setattr(judge_agreement, "analyse", functools.partial(judge_agreement.analyse, resamples=200))


def write_tsv(path, models, rows):
    lines = ["\t".join(["uid", *models]), *("\t".join([uid, *cells]) for uid, cells in rows.items())]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def three(tmp_path):
    """Three raters of 60 items and 4 models who see the same truth with some noise; the last model always fails."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (60, 4, 2))
    paths = []
    for k in range(3):
        seen = np.clip(truth + (rng.random(truth.shape) < 0.3) * rng.integers(-1, 2, truth.shape), 0, 2) / 2
        seen[:, 3, 0] = 0
        rows = {f"sample_{i}_1.jpg": [f"[{a:g}{', ' if i % 2 else ','}{b:g}]" for a, b in seen[i]] for i in range(60)}
        paths.append(write_tsv(tmp_path / f"rater{k + 1}.tsv", ["Alpha", "Beta", "Gamma", "Delta"], rows))
    judge = {f"sample_{i}_1.jpg": [f"[{5 * a:g}, {5 * b:g}]" for a, b in truth[i]] for i in range(60)}
    return paths, write_tsv(tmp_path / "judge.tsv", ["Alpha", "Beta", "Gamma", "Delta"], judge)


def run(capsys, *words):
    code = judge_agreement.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def test_scores_and_correlations_are_those_of_a_plain_computation(three, capsys, tmp_path):
    paths, judge = three
    output = tmp_path / "out.json"
    code, out, _ = run(capsys, "--ratings", *paths, "--judge", judge, "--output", output)
    assert code == 0
    found = json.loads(output.read_text())
    cells = np.array(
        [[[json.loads(cell) for cell in line.split("\t")[1:]] for line in path.read_text().splitlines()[1:]]
         for path in (*paths, judge)]
    )  # fmt: skip
    people, said = cells[:3], cells[3]  # (raters, items, models, 2)
    overall = np.sqrt(people.prod(-1))
    by_rater = overall.mean(1)
    for j in range(4):
        assert found["scores"]["O"][j]["mean"] == pytest.approx(by_rater[:, j].mean())
        assert found["scores"]["O"][j]["sd"] == pytest.approx(by_rater[:, j].std())
    rhos = []
    for j in range(3):
        block = found["judge"]["aspects"]["SC"]["models"][j]
        expected = stats.spearmanr(said[:, j, 0], people[:, :, j, 0].mean(0)).statistic
        assert block["spearman"]["value"] == pytest.approx(expected)
        assert block["spearman"]["low"] < expected < block["spearman"]["high"]
        rhos.append(expected)
    assert found["judge"]["aspects"]["SC"]["models"][3]["spearman"]["value"] is None  # Delta has nothing but zeros
    assert found["judge"]["aspects"]["SC"]["mean"]["spearman"]["value"] == pytest.approx(np.mean(rhos))
    pairs = [stats.spearmanr(people[a, :, 0, 1], people[b, :, 0, 1]).statistic for a, b in ((0, 1), (0, 2), (1, 2))]
    assert found["human"]["PQ"]["pairs"]["models"][0] == pytest.approx(np.mean(pairs))
    rest = [
        stats.spearmanr(people[k, :, 0, 1], np.delete(people[:, :, 0, 1], k, 0).mean(0)).statistic for k in range(3)
    ]
    assert found["human"]["PQ"]["rest"]["models"][0] == pytest.approx(np.mean(rest))
    assert found["human"]["O"]["alpha"]["value"] == pytest.approx(alpha_by_hand(overall.reshape(3, -1)))
    headline = json.loads(out.splitlines()[-1])
    assert headline["spearman"]["SC"] == pytest.approx(np.mean(rhos))


def test_a_perfect_judge_reaches_more_than_a_rater_and_a_random_one_nothing(three, tmp_path, capsys):
    paths, judge = three
    rng = np.random.default_rng(1)
    rows = {f"sample_{i}_1.jpg": [f"[{a}, {b}]" for a, b in rng.integers(0, 11, (4, 2))] for i in range(60)}
    random = write_tsv(tmp_path / "random.tsv", ["Alpha", "Beta", "Gamma", "Delta"], rows)
    good, bad = (
        json.loads(run(capsys, "--ratings", *paths, "--judge", one)[1].splitlines()[-1]) for one in (judge, random)
    )
    assert good["spearman"]["PQ"] > good["ceiling"]["PQ"] > 0.5
    assert abs(bad["spearman"]["PQ"]) < 0.2


def test_a_judge_with_one_number_and_holes_is_held_against_consistency_and_the_whole(three, tmp_path, capsys):
    paths, _ = three
    rows = {f"sample_{i}_1.jpg": [str(i % 7), "", "3.5", "x"] for i in range(50)}
    judge = write_tsv(tmp_path / "one.tsv", ["Alpha", "Beta", "Gamma", "Delta"], rows)
    code, out, err = run(capsys, "--ratings", *paths, "--judge", judge)
    assert code == 0
    headline = json.loads(out.splitlines()[-1])
    assert sorted(headline["spearman"]) == ["O", "SC"]
    assert "Missing, and left out: 140 cells of the judge." in " ".join(out.split())
    assert headline["unreadable"] == 50
    assert "not read, taken as missing: one: sample_0_1 Delta: x" in err


def write_run(folder, scores, judge="viescore@m#1"):
    """The observations of a suite's run: two repeats, the second without its last answer."""
    folder.mkdir()
    lines = []
    for i, (sc, pq) in enumerate(scores):
        parts = {"success": 5 * sc, "restraint": 10, "naturalness": 10, "cleanness": 5 * pq}
        value = judging.geometric([5 * sc, 10], [10, 5 * pq])
        both = [Judgement(judge=judge, repeat=k, scores_0_10=parts, value=value).as_dict() for k in range(2)]
        if i == 59:
            both[1] = Judgement(judge=judge, repeat=1, failure="refusal").as_dict()
        lines.append(json.dumps({"case": f"sample_{i}_1", "index": 0, "judgements": both}))
    (folder / "observations.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_runs_of_a_suite_say_the_same_as_a_table_of_their_scores(three, tmp_path, capsys):
    paths, judge = three
    truth = [[json.loads(cell) for cell in line.split("\t")[1:]] for line in judge.read_text().splitlines()[1:]]
    runs = [
        f"{model}={write_run(tmp_path / model, [[v / 5 for v in row[j]] for row in truth])}"
        for j, model in enumerate(("Alpha", "Beta", "Gamma"))
    ]
    table, logged = (
        json.loads(run(capsys, "--ratings", *paths, *words)[1].splitlines()[-1])["spearman"]
        for words in (("--judge", judge), ("--judge-runs", *runs))
    )
    for aspect in ("SC", "PQ"):
        assert logged[aspect] == pytest.approx(table[aspect], abs=0.1 if aspect == "PQ" else 1e-9)
    other = write_run(tmp_path / "other", [(0, 0)] * 3, judge="got@n#2")
    assert "runs of one judge" in run(capsys, "--ratings", *paths, "--judge-runs", *runs, f"Delta={other}")[2]
    assert "expected MODEL=DIR" in run(capsys, "--ratings", *paths, "--judge-runs", str(other))[2]
    assert "not both" in run(capsys, "--ratings", *paths, "--judge", judge, "--judge-runs", *runs)[2]


def test_repeats_of_a_judge_are_averaged(three, capsys):
    paths, judge = three
    once, twice = (
        json.loads(run(capsys, "--ratings", *paths, "--judge", *[judge] * n)[1].splitlines()[-1]) for n in (1, 2)
    )
    assert once["spearman"] == twice["spearman"]


def test_the_ceiling_is_that_of_the_models_and_cells_that_the_judge_scored(three, tmp_path, capsys):
    """As if the raters had rated nothing else: 40 of 60 items, and two of the three models that vary."""
    paths, judge = three
    rows = [line.split("\t") for line in judge.read_text().splitlines()]
    cells = {row[0]: [row[1], "[5, 5]", row[3]] for row in rows[1:41]}  # of one that never varies, no correlation
    part = write_tsv(tmp_path / "part.tsv", ["Alpha", "Beta", "Gamma"], cells)
    code, out, _ = run(capsys, "--ratings", *paths, "--judge", part, "--output", tmp_path / "part.json")
    assert code == 0
    assert "Missing, and left out: 60 cells of the judge." in " ".join(out.split())  # 20 items of three models
    found = json.loads((tmp_path / "part.json").read_text())
    small = []
    for path in paths:
        kept = [line.split("\t") for line in path.read_text().splitlines()[1:41]]
        small.append(write_tsv(tmp_path / f"small-{path.name}", ["A", "C"], {row[0]: row[1:4:2] for row in kept}))
    alone = json.loads(run(capsys, "--ratings", *small)[1].splitlines()[-1])["ceiling"]
    assert json.loads(out.splitlines()[-1])["ceiling"] == pytest.approx(alone)
    for aspect, whole in found["human"].items():
        assert found["judge"]["ceiling"][aspect]["models"][1] is None
        assert whole["rest"]["models"][1] is not None


@pytest.mark.parametrize("words", ["--judge", "--judge-runs"])
def test_a_model_that_nobody_rated_is_refused(three, tmp_path, capsys, words):
    paths, _ = three
    table = write_tsv(tmp_path / "j.tsv", ["Alpha", "Omega"], {"sample_1_1.jpg": ["[1, 1]", "[1, 1]"]})
    given = table if words == "--judge" else f"Omega={write_run(tmp_path / 'run', [(0, 1)] * 3)}"
    code, _, err = run(capsys, "--ratings", *paths, words, given)
    assert (code, err.count("\n")) == (2, 1)
    assert "nobody rated Omega; the ratings are of Alpha, Beta, Gamma, Delta" in err


def test_without_a_judge_people_are_held_against_each_other(three, capsys):
    code, out, _ = run(capsys, "--ratings", *three[0])
    assert code == 0
    assert "Krippendorff" in out
    assert json.loads(out.splitlines()[-1])["spearman"] is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("sample_7_1", "sample_6_1"), "item sample_6_1 occurs twice"),
        (lambda text: text.replace("sample_7_1", "other_7_1"), "differ in 2 items, the first is other_7_1"),
        (lambda text: text.replace("Beta", "Bravo"), "differ in 2 models"),
        (lambda text: text.replace("Beta", "Alpha"), "model Alpha occurs twice"),
        (lambda text: "uid\n", "expected a header"),
        (lambda text: "uid\tAlpha\na\t[7, 8]\n", "no cell holds scores of 0, 0.5 and 1"),
        (lambda text: text.rstrip() + "\t[1, 1]\t[1, 1]\n", "has 6 cells for"),
    ],
)
def test_files_that_do_not_fit_are_refused(three, capsys, change, words):
    paths, _ = three
    paths[1].write_text(change(paths[1].read_text()))
    code, _, err = run(capsys, "--ratings", *paths)
    assert code == 2
    assert words in err
    assert "Traceback" not in err


def test_one_rater_or_a_stranger_as_judge_is_refused(three, tmp_path, capsys):
    paths, _ = three
    assert "two raters or more" in run(capsys, "--ratings", paths[0])[2]
    stranger = write_tsv(tmp_path / "j.tsv", ["Alpha"], {"else.jpg": ["[1, 1]"]})
    assert "no item of j is among the human ratings" in run(capsys, "--ratings", *paths, "--judge", stranger)[2]
    assert "cannot be read" in run(capsys, "--ratings", tmp_path / "none.tsv", *paths)[2]
    with pytest.raises(UserError, match="cannot be read"):
        judge_agreement.read_ratings(tmp_path, human=True)
