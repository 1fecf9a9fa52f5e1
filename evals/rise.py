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
import functools
from typing import TYPE_CHECKING, Any

from evals.core.records import UserError
from evals.judged import files, wording
from evals.judged.options import ReadingOptions
from evals.judged.records import Item, JudgedSet, Metric, origin_of
from evals.judged.suite import JudgedSuite
from evals.judges.calls import Call, Encoding, Sending, shown
from evals.judges.readers import labelled
from evals.judges.scripted import first_score
from evals.suite import CASES, VERDICT, option

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from evals.suite import Case

CATEGORIES = origin_of("rise").counts
WORDS = {
    name: f"prompt_{name}"
    for name in (
        "consist", "reasoning", "reasoning_w_input", "generation", "spatial_cons", "spatial_ref_img",
        "spatial_ref_w_input", "spatial_ref", "spatial_qual", "logical_cons", "logical_cons_ans", "logical_txt",
        "logical_img", "logical_img_wo_q",
    )
}  # fmt: skip
"""Wordings, and the published variables."""
QUESTIONS = {
    "logical reference_txt": (("logical_cons_ans", "source"), ("logical_txt",)),
    "logical without_question": (("logical_cons", "reference"), ("logical_img_wo_q", "reference")),
    "logical": (("logical_cons", "reference"), ("logical_img", "reference")),
    "spatial reference_img": (("spatial_cons", "reference"), ("spatial_ref_img", "reference"), ("spatial_qual",)),
    "spatial reasoning_img": (("spatial_cons", "source"), ("spatial_ref_w_input", "source"), ("spatial_qual",)),
    "spatial": (("spatial_cons", "source"), ("spatial_ref",), ("spatial_qual",)),
    "reasoning_img": (("consist", "source"), ("reasoning_w_input", "source"), ("generation",)),
    "": (("consist", "source"), ("reasoning",), ("generation",)),
}
"""Of the first line that fits a case, by its task and facts: wordings, and the image before the result."""
FLAGS = ("consistency_free", "reference_img", "reference_txt", "reasoning_img", "reasoning_wo_ins")
"""Of a row; that they are there is what counts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(ReadingOptions):
    """Whose rules."""

    script: str = option(
        "2026.04", "official script whose accuracy is taken (default: %(default)s)", stage=VERDICT,
        choices=("2026.04", "2025"),
    )  # fmt: skip
    wording_by_row: bool = option(
        False,
        "ask logical cases with or without the instruction as each row says; the official script asks all without it "
        "if any row does",
        stage=CASES,
    )

    @property
    def mark(self) -> str:
        """Whether rows choose their wording, how replies are read, and the script whose accuracy is taken."""
        return f"{'-by-row' if self.wording_by_row else ''}{super().mark}-{self.script}"


class Rise(JudgedSuite):
    """The benchmark."""

    name = "rise"
    title = "RISEBench"
    script = wording.Published(
        file="utils.py", read=functools.partial(wording.variables, names=WORDS, places=("instruct", "reference"))
    )
    edits = True
    options = Options
    metrics = (
        Metric(name="accuracy", of=("accuracy",), share=True, times=100, digits=1),
        Metric(name="score", of=("score",), scale=(1, 5), digits=2),
        Metric(name="score as published", of=("published",), scale=(1, 5), digits=2),
        Metric(name="reasoning", of=("reasoning",), scale=(0, 100), digits=1),
        Metric(name="consistency", of=("consistency",), scale=(0, 100), digits=1),
        Metric(name="plausibility", of=("plausibility",), scale=(0, 100), digits=1),
    )
    sending = Sending(max_tokens=4096, encoding=Encoding(format="JPEG", longest_px=768, detail="high"))

    def load(self, root: Path, options: Options) -> JudgedSet:
        """The full file, known by its numbers, or that of 64 cases, by its hash."""
        path = files.find(root, ("datav2_total_w_subtask.json", "data/data_total.json", "data_total.json"), self.origin)
        rows = files.rows_in(path)
        images = files.find(root, ("data",), self.origin, folder=True)
        without = None if options.wording_by_row else any("reasoning_wo_ins" in row for row in rows)
        items = [_item(row, images, without) for row in rows]
        edition = "risebench-360"
        if collections.Counter(item.facts["category"] for item in items) != CATEGORIES:
            edition = files.edition("risebench-64", [path], self.origin, allowed=options.allow_other_data)
        return JudgedSet(edition=edition, items=items)

    def ask(self, case: Case, words: Mapping[str, str], options: Options) -> tuple[Call, ...]:
        """Two or three questions, by what the case has."""
        calls = []
        for name, word, roles in questions(case.tag, case.metadata["facts"]):
            text = wording.fill(words[word], case.metadata["texts"])
            strict = labelled("Final Score", [name], (0, 1) if case.tag == "logical" else (1, 5))
            read = first_score(name) if options.scripted else strict
            calls.append(Call(name=name, text=text, images=shown(*roles), read=read))
        return tuple(calls)

    def expects(self, case: Case, options: Options) -> frozenset[str]:
        """No consistency where it is free, no plausibility in logic."""
        asked = {name for name, _, _ in questions(case.tag, case.metadata["facts"])}
        return frozenset({"accuracy", "score", "published", *asked})

    def combine(self, case: Case, scores: Mapping[str, Mapping[str, float]], options: Options) -> dict[str, float]:
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
    line = next(line for line in QUESTIONS if all(word == task or facts.get(word) for word in line.split()))
    asked = zip(("consistency", "reasoning", "plausibility"), QUESTIONS[line], strict=False)
    found = [(name, word, (*roles, "result")) for name, (word, *roles) in asked]
    return found[1:] if facts.get("consistency_free") else found


def score(parts: Mapping[str, float | None]) -> float:
    """The weighted score from 1 to 5; halved where nothing of the reasoning is right.

    >>> score({"consistency": 5, "reasoning": 3, "plausibility": 5}), score({"reasoning": 5, "plausibility": 4})
    (4.0, 4.8)
    >>> score({"consistency": 5, "reasoning": 1}), score({"reasoning": 1, "plausibility": 1})
    (1.1, 1.0)
    """
    consistent, reasoned, plausible = (parts.get(name) for name in ("consistency", "reasoning", "plausibility"))
    assert reasoned is not None, "a case without its reasoning has no score"
    if plausible is None:
        found = 0.3 * (consistent or 0.0) + 0.7 * reasoned
    elif consistent is None:
        found = 0.2 * plausible + 0.8 * reasoned
    else:
        found = 0.3 * consistent + 0.5 * reasoned + 0.2 * plausible
    return round(max(found / 2, 1.0) if reasoned == 1 else found, 9)


def _item(row: files.Row, images: Path, without: bool | None) -> Item:
    index, category, text = row.text("index"), row.one_of("category", CATEGORIES), row.text("instruction")
    facts: dict[str, Any] = {flag: row.get(flag) is not None for flag in FLAGS}
    facts |= {"category": category, "without_question": facts["reasoning_wo_ins"] if without is None else without}
    if category == "logical_reasoning" and not facts["reference_txt"] and not facts["reference_img"]:
        raise UserError(f"{row.where}: expected reference_txt or reference_img of a logical case")
    found = {"source": row.image(images, row.text("image"))}
    if facts["reference_img"]:
        found["reference"] = row.image(images, row.text("reference_img"))
    reference = row.get("reference_txt") if facts["reference_txt"] else row.get("reference")
    return Item(
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
    from evals.harness import cli
    from got.util.interrupts import leave

    leave(cli.main("rise"))
