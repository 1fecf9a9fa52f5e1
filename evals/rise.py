"""RISEBench: edits that take reasoning about time, causes, space and logic. 360 cases; accuracy is all parts at best.

Source: Zhao et al., *Envisioning Beyond the Pixels*, arXiv 2504.02826, and its repository. Two leaderboards are in
circulation: the script of 2026-04 lets the seven cases that need no consistency be right, the one of 2025 never did.
The published score ignores consistency (a missing flag counts as true there); ``score`` is the intended one.

    python -m evals.rise --data RISEBench --model folder:outputs/MY_MODEL --judge openai
    python -m evals.rise --output runs/mine --from verdict --script 2025
"""

from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING, Any

from evals.judged import api as judged

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CATEGORIES = judged.origin_of("rise").counts
PARTS = ("consistency", "reasoning", "plausibility")
FLAGS = ("consistency_free", "reference_img", "reference_txt", "reasoning_img", "reasoning_wo_ins")
"""Of a row; that they are there is what counts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(judged.ReadingOptions):
    """Whose rules."""

    script: str = judged.option(
        "2026.04",
        "official script whose accuracy is taken (default: %(default)s)",
        stage=judged.VERDICT,
        choices=("2026.04", "2025"),
        marks={"2026.04": "-2026.04", "2025": "-2025"},
    )
    wording_by_row: bool = judged.option(
        False,
        "ask logical cases with or without the instruction as each row says; the official script asks all without it "
        "if any row does",
        stage=judged.CASES,
        marks={True: "-by-row"},
    )


class Rise(judged.JudgedSuite):
    """The benchmark."""

    name = "rise"
    title = "RISEBench"
    edits = True
    options = Options
    metrics = (
        judged.Metric(name="accuracy", of=("accuracy",), share=True, times=100, digits=1),
        judged.Metric(name="score", of=("score",), scale=(1, 5), digits=2),
        judged.Metric(name="score as published", of=("published",), scale=(1, 5), digits=2),
        judged.Metric(name="reasoning", of=("reasoning",), scale=(0, 100), digits=1),
        judged.Metric(name="consistency", of=("consistency",), scale=(0, 100), digits=1),
        judged.Metric(name="plausibility", of=("plausibility",), scale=(0, 100), digits=1),
    )
    sending = judged.Sending(max_tokens=4096, encoding=judged.Encoding(format="JPEG", longest_px=768, detail="high"))

    def load(self, root: Path, options: Options) -> judged.JudgedSet:
        """The full file, known by its numbers, or that of 64 cases, by its hash."""
        path = self.find(root, "datav2_total_w_subtask.json", "data/data_total.json", "data_total.json")
        rows, images = judged.files.rows_in(path), self.find(root, "data", folder=True)
        without = None if options.wording_by_row else any("reasoning_wo_ins" in row for row in rows)
        items = [_item(row, images, without) for row in rows]
        edition = "risebench-360"
        if collections.Counter(item.facts["category"] for item in items) != CATEGORIES:
            edition = self.hashed("risebench-64", [path], options)
        return judged.JudgedSet(edition=edition, items=items)

    def ask(self, case: judged.Case, words: Mapping[str, str], options: Options) -> tuple[judged.Call, ...]:
        """Two or three questions, by what the case has."""
        calls = []
        for name, word, roles in questions(case.tag, case.metadata["facts"]):
            strict = judged.labelled("Final Score", [name], (0, 1) if case.tag == "logical" else (1, 5))
            read = options.reader(strict, judged.first_score(name))
            calls.append(judged.question(case, name, words[word], judged.shown(*roles), read))
        return tuple(calls)

    def expects(self, case: judged.Case, options: Options) -> frozenset[str]:
        """No consistency where it is free, no plausibility in logic."""
        asked = {name for name, _, _ in questions(case.tag, case.metadata["facts"])}
        return super().expects(case, options) - (set(PARTS) - asked)

    def combine(self, case: judged.Case, scores: judged.Scores, options: Options) -> dict[str, float]:
        """Nothing where a part is missing. The official script counts such an image as wrong: the lower bound."""
        asked = [name for name, _, _ in questions(case.tag, case.metadata["facts"])]
        if any(name not in scores for name in asked):
            return {}
        parts = {name: scores[name][name] for name in asked}
        if case.tag == "logical":
            parts = {name: 4 * min(value, 1) + 1 for name, value in parts.items()}
        free = "consistency" not in parts
        right = all(value == 5 for value in parts.values()) and not (free and options.script == "2025")
        return {
            "accuracy": float(right),
            "score": score(parts),
            "published": score(parts if case.tag == "logical" else {**parts, "consistency": None}),
            **{name: 25 * (value - 1) for name, value in parts.items()},
        }


def questions(task: str, facts: Mapping[str, Any]) -> list[tuple[str, str, tuple[str, ...]]]:
    """What is asked about a case: score, wording and images, in order.

    >>> questions("spatial", {"reference_img": True})[0]
    ('consistency', 'spatial_cons', ('reference', 'result'))
    """
    asked = judged.origin_of("rise").asked([task, *(fact for fact, holds in facts.items() if holds)])
    found = [(name, word, (*roles, "result")) for name, (word, *roles) in zip(PARTS, asked, strict=False)]
    return found[1:] if facts.get("consistency_free") else found


def score(parts: Mapping[str, float | None]) -> float:
    """The weighted score from 1 to 5; halved where nothing of the reasoning is right.

    >>> score({"consistency": 5, "reasoning": 3, "plausibility": 5}), score({"reasoning": 5, "plausibility": 4})
    (4.0, 4.8)
    >>> score({"consistency": 5, "reasoning": 1}), score({"reasoning": 1, "plausibility": 1})
    (1.1, 1.0)
    """
    consistent, reasoned, plausible = (parts.get(name) for name in PARTS)
    assert reasoned is not None, "a case without its reasoning has no score"
    if plausible is None:
        found = 0.3 * (consistent or 0.0) + 0.7 * reasoned
    elif consistent is None:
        found = 0.2 * plausible + 0.8 * reasoned
    else:
        found = 0.3 * consistent + 0.5 * reasoned + 0.2 * plausible
    return round(max(found / 2, 1.0) if reasoned == 1 else found, 9)


def _item(row: judged.files.Row, images: Path, without: bool | None) -> judged.Item:
    index, category, text = row.text("index"), row.one_of("category", CATEGORIES), row.text("instruction")
    facts: dict[str, Any] = {flag: row.get(flag) is not None for flag in FLAGS}
    facts |= {"category": category, "without_question": facts["reasoning_wo_ins"] if without is None else without}
    if category == "logical_reasoning" and not facts["reference_txt"] and not facts["reference_img"]:
        raise judged.UserError(f"{row.where}: expected reference_txt or reference_img of a logical case")
    found = {"source": row.image(images, row.text("image"))}
    if facts["reference_img"]:
        found["reference"] = row.image(images, row.text("reference_img"))
    reference = row.get("reference_txt") if facts["reference_txt"] else row.get("reference")
    return judged.Item(
        id=index,
        prompt=text,
        task=category.partition("_")[0],
        subtask=str(row.get("subtask") or ""),
        texts={"{instruct}": text, "{reference}": str(reference or "")},
        facts=facts,
        images=found,
        where=row.where,
        layout=tuple(f"images/{category}/{index}.{suffix}" for suffix in ("png", "jpg", "jpeg")),
    )


if __name__ == "__main__":
    judged.main("rise")
