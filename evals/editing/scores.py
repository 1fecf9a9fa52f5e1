"""Logged edits -> scores.json -> tables, for all editing suites. Pure."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any

import numpy as np

from evals.core.records import Judgement, causes_of, counted_causes, unlabelled
from evals.judges import detection_scores
from evals.judges.detection_scores import MeasuredScore
from evals.metrics import images, judging, statements, statistics
from evals.metrics.images import Score
from evals.suite import tables as shared
from got.util.tables import counted, number, span

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rich.table import Table

    from evals.core.records import Case, Scored
    from evals.editing.options import EditOptions
    from evals.suite import Context

_SHORT = ("clip_i_source", "clip_i_target", "clip_t", "clip_direction", "dino_source", "source/l1", "target/l1")
"""Metrics of the table by category."""

_ASK_AGAIN = "--from observe asks again for what failed; legal replies come from --judge-log and are not paid twice"


# -------------------------------------------------------------------------------------------------------------- scores
def summarize(
    cases: Sequence[Case],
    scored: Sequence[Scored],
    failures: Sequence[Mapping[str, Any]],
    options: EditOptions,
    context: Context,
    pools: Mapping[str, Callable[[str], bool]],
) -> dict[str, Any]:
    """Everything but the suite's own name: metrics and judgements, overall and by category, with n and interval.

    Args:
        cases: All cases of the run.
        scored: Those images that were observed.
        failures: Those that were not.
        options: The suite's.
        context: The run.
        pools: Categories summed up together: name -> whether a category belongs to it.
    """
    by_category: dict[str, list[Scored]] = {case.tag: [] for case in cases}
    for one in scored:
        by_category[one.observation["category"]].append(one)
    wanted = collections.Counter(dict.fromkeys(by_category, 0))
    for case in cases:
        wanted[case.tag] += context.images_per_prompt
    total = sum(wanted.values())

    def block(some: Sequence[Scored], count: int) -> dict[str, Any]:
        return _block(some, count, options, context.seed)

    return {
        **context.describe(),
        "overall": block(scored, total),
        "categories": {tag: block(some, wanted[tag]) for tag, some in by_category.items()},
        "pooled": {
            name: block(
                [one for one in scored if belongs(one.observation["category"])],
                sum(count for tag, count in wanted.items() if belongs(tag)),
            )
            for name, belongs in pools.items()
        },
        "missing": {
            "total": total - len(scored),
            "by_cause": dict(causes_of(failures).most_common()),
            **unlabelled(failures),
        },
        "faults": {one.key: one.score.fault for one in scored if one.score.fault},
        "intervals": statistics.INTERVALS,
    }


def _block(some: Sequence[Scored], wanted: int, options: EditOptions, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    lines = [one.observation for one in some]
    groups = [line["group"] for line in lines]
    names = sorted({name for line in lines for name in line["metrics"]})
    metrics = {}
    for name in names:
        there = [line for line in lines if name in line["metrics"]]
        scores = [_score(line["metrics"][name]) for line in there]
        metrics[name] = {
            **images.summarize(scores, [line["group"] for line in there], rng),
            "identity": _plain_mean([line["identity"].get(name) for line in there]),
            "target": _plain_mean([line["target"].get(name) for line in there]),
        }
    judgements = [[Judgement(**one) for one in line["judgements"]] for line in lines]
    judge = None
    if any(judgements):
        name = next(one.judge for repeats in judgements for one in repeats)
        lost = Judgement(judge=name, failure="no image")
        every = [*judgements, *([[lost] * options.judge_repeats] * (wanted - len(lines)))]
        unseen = [f"missing {i}" for i in range(wanted - len(lines))]
        judge = judging.summarize(every, [*groups, *unseen], rng, max_failed=options.judge_max_failed)
    seen = [(one.score, group) for one, group in zip(some, groups, strict=True) if isinstance(one.score, MeasuredScore)]
    return {
        "images": len(lines),
        "missing": wanted - len(lines),
        "groups": len(set(groups)),
        "black": sum(line["black"] for line in lines),
        "truncated": dict(collections.Counter(label for line in lines for label in line["truncated"])),
        "truncation_unknown": sorted({label for line in lines for label in line.get("truncation_unknown", ())}),
        "metrics": metrics,
        "judge": judge,
        "measured": detection_scores.summarize(*map(list, zip(*seen, strict=True))) if seen else None,
    }


def _score(logged: float | str) -> Score:
    return Score(value=None, undefined=logged) if isinstance(logged, str) else Score(value=logged)


def _plain_mean(logged: Sequence[float | str | None]) -> float | None:
    values = [value for value in logged if isinstance(value, float)]
    return float(np.mean(values)) if values else None


def headline(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The few numbers that end a run."""
    overall = scores["overall"]
    judge = overall["judge"]
    return {
        **{name: scores[name] for name in ("suite", "world", "model")},
        "data": scores["data"]["name"],
        "cases": scores["data"]["cases"],
        "images": overall["images"],
        "missing": scores["missing"]["total"],
        **({"missing_classes": scores["missing"]["classes"]} if "classes" in scores["missing"] else {}),
        "metrics": {name: block["value"] for name, block in overall["metrics"].items() if _is_short(name)},
        "judge": None if judge is None else {"name": judge["judge"], "score": judge["headline"]},
        "measured": None
        if overall["measured"] is None
        else {name: block["value"] for name, block in overall["measured"]["shares"].items()},
    }


def nothing_scored(scores: Mapping[str, Any]) -> str | None:
    """Why no image of a run has a score, or a judge that was asked gave none; None where there are scores."""
    overall, missing = scores["overall"], scores["missing"]
    if not overall["images"]:
        wanted = counted(missing["total"], "images")
        return f"expected {wanted} with a score, found none: {counted_causes(missing['by_cause'])}"
    judge = overall["judge"]
    if judge is not None and judge["judgements"] == sum(judge["failed"].values()):
        return f"expected {judge['judgements']} judgements, and all failed: {counted_causes(judge['failed'])}"
    return None


def _is_short(name: str) -> bool:
    return name.partition("@")[0] in _SHORT


# -------------------------------------------------------------------------------------------------------------- tables
def tables(scores: Mapping[str, Any]) -> list[Table]:
    """All metrics with floor and ceiling; the main ones by category; the judge, if there was one."""
    found = [_metric_table(scores), _category_table(scores)]
    found += [_judge_table(scores)] if scores["overall"]["judge"] else []
    return [*found, _measured_table(scores)] if scores["overall"]["measured"] else found


def _metric_table(scores: Mapping[str, Any]) -> Table:
    data, overall = scores["data"], scores["overall"]
    checkpoint = f" ({scores['checkpoint']})" if scores["checkpoint"] else ""
    table = shared.table(
        f"{scores['title']}, {scores['world']}: {scores['model']}{checkpoint}",
        ["mean", "95 %\ninterval", "images", "sources", "untouched\nsource", "true\ntarget"],
        _caption(scores, data, overall),
        first="metric",
    )
    for name, block in overall["metrics"].items():
        cells = [number(block["value"]), shared.interval(block), str(block["n"]), str(block["clusters"])]
        cells += [number(block["identity"]), number(block["target"])]
        table.add_row(f"{name} {images.arrow(name)}", *cells)
    return table


def _caption(scores: Mapping[str, Any], data: dict[str, Any], overall: dict[str, Any]) -> str:
    revision = f", revision {data['revision'][:12]}" if data["revision"] else ""
    whole = data.get("of", data["cases"])
    times = f"{data['cases']}" if whole == data["cases"] else f"{data['cases']} of {whole}"
    lines = [
        f"{data['name']}, {data['variant']}: {times} cases, ids {data['ids_sha256'][:12]}{revision}",
        f"licence: {data['licence']}",
        *data["notes"],
        *(f"left out: {times} × {reason}" for reason, times in data["dropped"].items()),
        f"pixels compared as {scores['protocol']} does; intervals: bootstrap over source images",
    ]
    reasons: collections.Counter[str] = collections.Counter()
    for name, block in overall["metrics"].items():
        reasons.update({f"{name.partition('@')[0]}: {reason}": n for reason, n in block["undefined"].items()})
    lines += [f"undefined: {times} × {reason}" for reason, times in list(reasons.items())[:6]]
    lines += statements.no_intervals(overall["metrics"].items())
    lines += [f"cut captions: {times} by {label}" for label, times in overall["truncated"].items()]
    lines += [f"cut captions: {label} does not tell" for label in overall.get("truncation_unknown", ())]
    lines += [f"black images: {overall['black']}"] if overall["black"] else []
    lines += [f"missing: {times} × {cause}" for cause, times in list(scores["missing"]["by_cause"].items())[:6]]
    lines += [f"no label for {', '.join(scores['missing']['classes'])}"] if "classes" in scores["missing"] else []
    return "\n".join(lines)


def _rows(scores: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The categories and pools that have a row in the tables. Older runs have no pools."""
    pooled = [(f"{name}, pooled", block) for name, block in scores.get("pooled", {}).items()]
    return [*scores["categories"].items(), *pooled, ("all", scores["overall"])]


def _category_table(scores: Mapping[str, Any]) -> Table:
    names = [name for name in scores["overall"]["metrics"] if _is_short(name)]
    lines = (name.replace("@", "\n").replace("/", "/\n").replace("_", "\n", 1) for name in names)
    columns = ["images", *(f"{title} {images.arrow(name)}" for name, title in zip(names, lines, strict=True))]
    table = shared.table("By category", columns, "", first="category")
    for tag, block in _rows(scores):
        values = [number(block["metrics"].get(name, {}).get("value")) for name in names]
        table.add_row(tag, str(block["images"]), *values, style="bold" if tag == "all" else None)
    return table


def _judge_table(scores: Mapping[str, Any]) -> Table:
    overall = scores["overall"]["judge"]
    parts = list(overall["parts"])
    columns = [
        "score ↑",
        "95 %\ninterval",
        "judged",
        "failed",
        "bounds",
        "at 0 ↓",
        *(f"{part}\n0–10 ↑" for part in parts),
    ]
    table = shared.table(f"Judge {overall['judge']}", columns, _judge_caption(overall), first="category")
    for tag, block in _rows(scores):
        judge = block["judge"]
        if judge is None:
            continue
        failed = sum(judge["failed"].values())
        cells = [
            number(judge["headline"]),
            shared.interval(judge["score"]),
            str(judge["judgements"] - failed),
            str(failed or "·"),
        ]
        low, high = judge["bounds"]
        cells += [span(low, high), number(judge["zeros"])]
        cells += [number(judge["parts"].get(part)) for part in parts]
        table.add_row(tag, *cells, style="bold" if tag == "all" else None)
    return table


def _measured_table(scores: Mapping[str, Any]) -> Table:
    """Edits done and rests untouched, from detections; the last table, because it is what the icon world is for."""
    names = list(scores["overall"]["measured"]["shares"])
    columns = ["images", *(f"{name} ↑\n95 %".replace(" ", "\n", 1) for name in names)]
    columns += ["plans\nright ↑", "wrong:\nplan", "wrong:\ndrawing"]
    floor, ceiling = (
        ", ".join(f"{name} {block[side]:.3f}" for name, block in scores["overall"]["measured"]["shares"].items())
        for side in ("identity", "target")
    )
    caption = (
        f"measured by {scores['detector']}; intervals: {statistics.method_of(scores)}, clustered by source image\n"
        f"untouched source: {floor}\ntrue target: {ceiling}"
    )
    table = shared.table("Edits that a detector finds done, and the rest untouched", columns, caption, first="category")
    for tag, block in _rows(scores):
        found = block["measured"]
        if found is None:
            continue
        parts = [found["shares"][name] for name in names]
        shares = [f"{number(part['value'])}\n{shared.interval(part)}" for part in parts]
        wrong = [str(found["wrong_plan"]), str(found["wrong_drawing"])] if found["plans"] else ["–", "–"]
        cells = [str(block["images"]), *shares, number(found["plans_right"]), *wrong]
        table.add_row(tag, *cells, style="bold" if tag == "all" else None)
    return table


def _judge_caption(judge: dict[str, Any]) -> str:
    lines = ["score: mean of each case's own score; it is not the score of the mean parts"]
    if judge["headline"] is None:
        lines.append("too many images without a judgement for a score; --judge-max-failed 1 shows it all the same")
    lines += statements.no_intervals([("the score", judge["score"])])
    lines += [f"failed: {times} × {cause} ({judging.CAUSES[cause]})" for cause, times in judge["failed"].items()]
    if any(cause in judge["failed"] for cause in judging.UNASKED):
        lines.append(_ASK_AGAIN)
    if judge["judge_sd"] is not None:
        lines.append(f"the judge's own spread over repeats of one case: {judge['judge_sd']:.3f}")
    usd = "" if judge["usd"] is None else f", {judge['usd']:.2f} USD"
    lines.append(f"{judge['calls']} requests, {judge['tokens_in']} tokens in, {judge['tokens_out']} out{usd}")
    return "\n".join(lines)
