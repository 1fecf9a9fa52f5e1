"""Judged images -> metrics with intervals and bounds -> tables. Pure."""

from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from evals.core.records import counted_causes
from evals.core.vocabulary import task_title
from evals.judged import reported
from evals.metrics import judging, statistics
from evals.suite import plain
from evals.suite import tables as shared
from got.util.errors import visible
from got.util.tables import number, span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from rich.table import Table

    from evals.core.records import Case, Scored
    from evals.judged.options import JudgedOptions
    from evals.judged.records import Metric, Reported
    from evals.judges.calls import Call, Sending
    from evals.suite import Context

_RESAMPLES = 2000
_TOKENS_AN_IMAGE, _TOKENS_A_REPLY = 1100, 150
"""For a first guess of what a run costs."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What is known of one image: a row of every table."""

    task: str
    subtask: str
    cluster: str
    values: Mapping[str, float]
    expected: frozenset[str]
    """Values that it should have."""

    def lost(self, metric: Metric) -> list[str]:
        """The values of a metric that are missing, or the parts of its one value."""
        return [name for name in metric.parts or metric.of if name in self.expected and name not in self.values]

    def found(self, metric: Metric, filled: float | None = None) -> list[float]:
        """The values of a metric, with something in place of those that are missing, unless it is None."""
        lost = [] if filled is None else [filled] * len(self.lost(metric))
        known = [self.values[name] for name in (lost and metric.parts) or metric.of if name in self.values]
        return [float(np.mean([*known, *lost]))] if lost and metric.parts else [*known, *lost]


def mean(values: Sequence[float]) -> float | None:
    """The plain mean; None of nothing."""
    return float(np.mean(values)) if values else None


def point(metric: Metric, rows: Sequence[Judged], filled: float | None = None) -> float | None:
    """A metric's value, without an interval.

    Args:
        metric: How its values are averaged.
        rows: The images.
        filled: In place of values that are missing; None leaves them out.

    >>> from evals.judged.records import Metric
    >>> rows = [Judged(task=task, subtask="", cluster=str(i), values={"v": v}, expected=frozenset("v"))
    ...         for i, (task, v) in enumerate([("a", 1), ("a", 0), ("a", 0.5), ("b", 1)])]
    >>> point(Metric(name="m", of=("v",)), rows), point(Metric(name="m", of=("v",), over="tasks"), rows)
    (0.625, 0.75)
    """
    groups: dict[str, list[float]] = {}
    for row in rows:
        groups.setdefault(row.task if metric.over == "tasks" else "", []).extend(row.found(metric, filled))
    return mean([float(np.mean(values)) for values in groups.values() if values])


def estimate(metric: Metric, rows: Sequence[Judged], rng: np.random.Generator) -> dict[str, Any]:
    """A metric with interval, bounds and the number of values that are missing."""
    clusters: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        key = (row.task if metric.over == "tasks" else "", row.cluster)
        clusters.setdefault(key, []).extend(row.found(metric))
    sums, counts = [sum(values) for values in clusters.values()], [len(values) for values in clusters.values()]
    groups, shared = [group for group, _ in clusters], [cluster for _, cluster in clusters]
    if metric.share:
        found = statistics.share(sums, counts, groups).as_dict()
    else:
        found = statistics.macro(sums, counts, groups, rng, _RESAMPLES, shared).as_dict()
    missing = sum(min(len(row.lost(metric)), len(metric.of)) for row in rows)
    bounds = [point(metric, rows, end) for end in metric.scale] if missing else None
    return {**found, "missing": missing, "bounds": bounds}


def cluster_of(case: Case) -> str:
    """What a case shares with those that are drawn together for intervals: the source image, or nothing."""
    return str(case.metadata["group"] or case.id)


def rows_of(
    cases: Sequence[Case],
    scored: Sequence[Scored],
    images_per_prompt: int,
    expects: Callable[[Case], frozenset[str]],
) -> list[Judged]:
    """A row for every image that the run should have, those without an image included."""
    seen: dict[str, list[Mapping[str, float]]] = collections.defaultdict(list)
    for one in scored:
        seen[one.sample.case.id].append(one.score.values)
    return [
        Judged(
            task=case.tag,
            subtask=case.metadata["subtask"],
            cluster=cluster_of(case),
            values=values,
            expected=expects(case),
        )
        for case in cases
        for values in [*seen[case.id], *([{}] * (images_per_prompt - len(seen[case.id])))]
    ]


def summarize(
    rows: Sequence[Judged],
    scored: Sequence[Scored],
    floor: Sequence[Judged],
    repeats: Sequence[Sequence[float]],
    metrics: Sequence[Metric],
    options: JudgedOptions,
    context: Context,
    levels: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """Metrics overall, by task, subtask and level; the floor; and what the judge did.

    Args:
        rows: Every image of the run.
        scored: Those that were observed.
        floor: Of untouched sources or blank images.
        repeats: Of each image, its headline value from each repeat.
        metrics: The benchmark's.
        options: The suite's.
        context: The run.
        levels: Tasks that are summed up together.
    """
    rng = np.random.default_rng(context.seed)
    tasks: dict[str, list[Judged]] = {}
    subtasks: dict[str, list[Judged]] = {}
    for row in rows:
        tasks.setdefault(row.task, []).append(row)
        if row.subtask:
            subtasks.setdefault(f"{row.task} / {row.subtask}", []).append(row)

    def block(some: Sequence[Judged], own: Iterable[Metric]) -> dict[str, Any]:
        return {metric.name: estimate(metric, some, rng) for metric in own}

    account = _account(scored, repeats, options, rows, metrics[0])
    whole = block(rows, metrics)
    if account["no_headline"] is not None:  # bounds and counts stay: they say what is known of all images
        whole = {name: {**one, "value": None, "low": None, "high": None} for name, one in whole.items()}
    # Inside one task the mean of tasks is the mean of cases: that metric has the column there.
    return {
        "metrics": {
            "names": {
                m.name: {"of": m.of, "over": m.over, "scale": m.scale, "digits": m.digits, "times": m.times}
                for m in metrics
            },
            "all": whole,
            "tasks": {task: block(some, metrics) for task, some in tasks.items()},
            "subtasks": {name: block(some, metrics[:1]) for name, some in subtasks.items()},
            **({"levels": levels_of(tasks, levels, metrics, rng)} if levels else {}),
            "floor": {
                m.name: {"value": point(m, floor), "n": sum(bool(row.found(m)) for row in floor)} for m in metrics
            },
        },
        "judge": account,
    }


def levels_of(
    tasks: Mapping[str, Sequence[Judged]],
    levels: Mapping[str, Sequence[str]],
    metrics: Sequence[Metric],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Metrics of some tasks together; nothing of a level none of whose tasks was run."""
    found = {level: [row for task in of for row in tasks.get(task, ())] for level, of in levels.items()}
    return {
        level: {metric.name: estimate(metric, rows, rng) for metric in metrics} for level, rows in found.items() if rows
    }


def _account(
    scored: Sequence[Scored],
    repeats: Sequence[Sequence[float]],
    options: JudgedOptions,
    rows: Sequence[Judged],
    headline: Metric,
) -> dict[str, Any]:
    answers = [each for one in scored for each in (*one.observation["answers"], *one.observation["floor"])]
    names = sorted({each["judge"] for each in answers})
    judging.check_one_judge(names)
    failed = collections.Counter(
        cause for one in scored for each in one.observation["answers"] for cause in each["failures"].values()
    )
    # An image that is not there has no judgement, too.
    unjudged = sum(not row.found(headline) or bool(row.lost(headline)) for row in rows)
    too_many = not rows or unjudged / len(rows) > options.judge_max_failed
    prices = [each["usd"] for each in answers if each["usd"] is not None]
    return {
        "name": names[0] if names else None,
        "headline": not too_many,
        "no_headline": f"too many images without a score: {unjudged:,} of {len(rows):,}" if too_many else None,
        "failed": dict(failed.most_common()),
        "repeats": options.judge_repeats,
        "judge_sd": judging.judge_spread(repeats),
        "calls": sum(each["calls"] for each in answers),
        "tokens_in": sum(each["tokens_in"] for each in answers),
        "tokens_out": sum(each["tokens_out"] for each in answers),
        "usd": sum(prices) if prices else None,
    }


def is_unasked(observation: Mapping[str, Any]) -> bool:
    """Whether a call has no answer for a reason that says nothing of the image."""
    answers = [*observation["answers"], *observation["floor"]]
    return any(cause in judging.UNASKED for one in answers for cause in one["failures"].values())


def why_unanswered(observation: Mapping[str, Any]) -> str | None:
    """Why no call about an image has an answer, where that may lie in how all is asked."""
    answers = [*observation["answers"], *observation["floor"]]
    causes = [(cause, one["details"][call]) for one in answers for call, cause in one["failures"].items()]
    in_vain = all(cause in judging.UNANSWERED for cause, _ in causes) and not any(one["scores"] for one in answers)
    return ": ".join(causes[0]) if causes and in_vain else None


def metric_id(scores: Mapping[str, Any], name: str) -> str:
    """What a number is called wherever it stands alone: edition, wording, metric, judge and hash."""
    return f"{scores['edition']}-{scores['wording']}/{name}@{str(scores['judge']['name']).partition('@')[2]}"


def headline(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The few numbers that end a run."""
    first = next(iter(scores["metrics"]["all"]))
    best = scores["metrics"]["all"][first]
    no_headline = reported.no_headline(scores)
    return {
        **{name: scores[name] for name in ("suite", "world", "model", "edition", "wording")},
        "judge": scores["judge"]["name"],
        "metric": metric_id(scores, first),
        "overall": None if no_headline else best["value"],
        "interval_95": None if no_headline else [best["low"], best["high"]],
        **({"no_headline": no_headline} if no_headline else {}),
        "metrics": {name: one["value"] for name, one in scores["metrics"]["all"].items()},
        "tasks": {task: block[first]["value"] for task, block in scores["metrics"]["tasks"].items()},
        "floor": scores["metrics"]["floor"][first],
        "images": best["n"],
        "missing": best["missing"],
        "bounds": best["bounds"],
        "failed": scores["judge"]["failed"],
        **({"rewritten_from": scores["rewritten_from"]} if scores["rewritten_from"] else {}),
    }


def nothing_scored(scores: Mapping[str, Any]) -> str | None:
    """Why no image has a score; None where one has."""
    if any(one["n"] for one in scores["metrics"]["all"].values()):
        return None
    failed = scores["judge"]["failed"]
    if failed:
        return f"expected judged images, and all judgements failed: {counted_causes(failed)}"
    return plain.nothing_scored({**scores, "overall": {"score": {"n": 0}}})


# -------------------------------------------------------------------------------------------------------------- tables
def tables(scores: Mapping[str, Any], rows: Sequence[Reported]) -> list[Table]:
    """Metrics by task with floor and bounds; then what others report of the same edition."""
    metrics = scores["metrics"]
    names = metrics["names"]
    checkpoint = f" ({scores['checkpoint']})" if scores["checkpoint"] else ""
    title = f"{scores['title']}, {scores['world']}: {scores['model']}{checkpoint} · {scores['edition']}"
    columns = [*(f"{name} ↑" for name in names), "95 %\ninterval", "images", "missing", "bounds"]
    table = shared.table(visible(f"{title}-{scores['wording']}"), columns, _caption(scores))
    for task, block in metrics["tasks"].items():
        table.add_row(visible(task_title(task)), *_cells(block, names))
        for name, part in metrics["subtasks"].items():
            if name.startswith(f"{task} / "):
                title = task_title(name.removeprefix(f"{task} / "))
                table.add_row(f"  {visible(title)}", *_cells(part, names), style="dim")
    table.add_section()
    for level, block in metrics.get("levels", {}).items():
        table.add_row(visible(level), *_cells(block, names))
    table.add_row("all", *_cells(metrics["all"], names), style="bold")
    floor = metrics["floor"]
    cells = [_number(floor[name]["value"], names[name]) for name in names]
    table.add_row("floor", *cells, "", str(next(iter(floor.values()))["n"]), "", "", style="dim")
    return [table, *reported.tables(scores, rows)]


def _cells(block: Mapping[str, Any], names: Mapping[str, Any]) -> list[str]:
    cells = [_number(block[name]["value"], names[name]) if name in block else "" for name in names]
    first = next(iter(names))
    one, how = block[first], names[first]
    bounds = _span(one["bounds"], how) if one["bounds"] else ""
    return [*cells, _span((one["low"], one["high"]), how), str(one["n"]), str(one["missing"] or ""), bounds]


def _number(value: float | None, how: Mapping[str, Any]) -> str:
    return number(None if value is None else value * how["times"], how["digits"])


def _span(ends: Sequence[float | None], how: Mapping[str, Any]) -> str:
    low, high = (None if end is None else end * how["times"] for end in ends)
    return span(low, high, how["digits"])


def _caption(scores: Mapping[str, Any]) -> str:
    judge, names = scores["judge"], scores["metrics"]["names"]
    lines = [
        f"judge: {judge['name']}; official: {scores['official_judge']}",
        f"data: {scores['licence']}; interval, images, missing and bounds are of {next(iter(names))}",
        reported.means(scores),
        f"intervals of shares: {statistics.method_of(scores)}, else bootstrap",
        *scores["notes"],
    ]
    if scores["rewritten_from"]:
        lines.append(f"prompts rewritten: {scores['rewritten_from']}; judged by the original ones")
    if why := reported.no_headline(scores):
        lines.append(f"no headline: {why}; {reported.ALL_THE_SAME}")
    lines += [f"failed: {number} × {cause}" for cause, number in judge["failed"].items()]
    lines += [f"missing: {number} × {visible(cause)}" for cause, number in _causes(scores)[:6]]
    if judge["judge_sd"] is not None:
        lines.append(f"the judge's own spread over {judge['repeats']} repeats of one image: {judge['judge_sd']:.3f}")
    usd = "" if judge["usd"] is None else f", {judge['usd']:.2f} USD"
    lines.append(f"{judge['calls']} requests, {judge['tokens_in']} tokens in, {judge['tokens_out']} out{usd}")
    return "\n".join(lines)


def _causes(scores: Mapping[str, Any]) -> list[tuple[str, int]]:
    return list(scores["missing"]["by_cause"].items())


def costs(interviews: Sequence[Sequence[Call]], sending: Sending, price: tuple[float, float] | None) -> dict[str, Any]:
    """Questions of a run, and a guess of what they cost: tokens by length of text, so many an image and a reply.

    What goes on with an earlier exchange sends that again.

    >>> from evals.judges.calls import Call, Sending
    >>> pairs = (("a", None), ("b", "a"))
    >>> first, then = (Call(name=name, text="w" * 400, images=(), after=after) for name, after in pairs)
    >>> costs([[first, then]], Sending(max_tokens=50), None)
    {'questions': 2, 'tokens_in_about': 350, 'tokens_out_about': 100}
    """
    reply = min(_TOKENS_A_REPLY, sending.max_tokens)
    tokens_in = questions = 0
    for calls in interviews:
        sent: dict[str, int] = {}
        for call in calls:
            own = len(call.text + call.system) // 4 + _TOKENS_AN_IMAGE * len(call.images)
            sent[call.name] = own + (0 if call.after is None else sent[call.after] + reply)
        tokens_in += sum(sent.values())
        questions += len(calls)
    tokens_out = questions * reply
    guess = {"questions": questions, "tokens_in_about": tokens_in, "tokens_out_about": tokens_out}
    if price is None:
        return guess
    return {**guess, "usd_about": round((tokens_in * price[0] + tokens_out * price[1]) / 1e6, 2)}
