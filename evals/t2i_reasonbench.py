"""T2I-ReasonBench: 800 prompts of idioms, images with text, entities and science, each with questions of its own.

Source: Sun et al., *T2I-ReasonBench*, arXiv 2508.17472, and its repository. The judge first describes the image, then
answers each group of questions with that description before it. Prompts come from ``prompts/``: of the copies in the
question files eleven differ, and seven of these give the answer away.

    python -m evals.t2i_reasonbench --data T2I-ReasonBench --model got --judge hf:Qwen2.5-VL-72B-Instruct
"""

from __future__ import annotations

import json
import re
import statistics
from typing import TYPE_CHECKING, Any

from evals.core.records import UserError
from evals.judged import files, wording
from evals.judged.options import ReadingOptions
from evals.judged.records import Item, JudgedSet, Metric
from evals.judged.suite import JudgedSuite
from evals.judges.calls import Call, Sending, shown
from evals.judges.readers import any_text, json_list
from evals.judges.scripted import any_list

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from evals.suite import Case

PARTS = {
    "idiom": ("idiom_interpretation", {"reason_evaluation": 1.0}),
    "textual": ("textual_image_design", {"reason_evaluation": 1.0}),
    "entity": ("entity_reasoning", {"entity_evaluation": 0.7, "other_details_evaluation": 0.3}),
    "scientific": ("scientific_reasoning", {"scientific_evaluation": 0.7, "other_details_evaluation": 0.3}),
}
"""Of each part its file of prompts, and what its accuracy is made of."""
QUALITY = "quality_evaluation"
_QUESTIONS = {"textual": "evaluation_textual_image.json"}
SCRIPTS = tuple(f"evaluation/Qwen2.5-VL/eval_{name}.py" for name in ("idiom", "textual_image", "entity", "scientific"))


def _published(path: Path) -> dict[str, str]:
    """What all four scripts ask, with a group's questions as Python writes a dictionary."""
    scripts = [path.with_name(script.rpartition("/")[2]) for script in SCRIPTS]
    described: set[str | None] = set()
    asked: set[str] = set()
    for script in scripts:
        texts = wording.constants(script)
        described |= {texts.get("q1")}
        asked |= {re.sub(r"\{qs_\w+\}", "{dict}", text) for name, text in texts.items() if name in ("q2", "q3", "q4")}
    if None in described or len(described) != 1 or len(asked) != 1 or "{dict}" not in next(iter(asked)):
        raise UserError(f"{path.parent}: expected one q1 and one text of q2 to q4 in all of {len(scripts)} scripts")
    return {"describe": str(*described), "questions": str(*asked)}


class T2IReasonBench(JudgedSuite):
    """The benchmark."""

    name = "t2i_reasonbench"
    title = "T2I-ReasonBench"
    script = wording.Published(file=SCRIPTS[0], read=_published)
    options = ReadingOptions
    version = 2
    metrics = (
        Metric(name="accuracy", of=("accuracy",), over="tasks", times=100, digits=1),
        Metric(name="quality", of=("quality",), over="tasks", times=100, digits=1),
    )
    sending = Sending(temperature=None, max_tokens=1000, images_first=True)

    def load(self, root: Path, options: ReadingOptions) -> JudgedSet:
        """Four files of prompts and four of questions."""
        read = []
        for part, (name, _) in PARTS.items():
            asked = _QUESTIONS.get(part, f"evaluation_{part}.json")
            prompts = files.find(root, (f"prompts/{name}.json", f"{name}.json"), self.origin)
            questions = files.find(root, (f"deepseek_evaluation_qs/{asked}", asked), self.origin)
            read.append((part, prompts, questions))
        paths = [path for _, *both in read for path in both]
        edition = files.edition("t2i-reasonbench", paths, self.origin, allowed=options.allow_other_data)
        items = []
        for part, prompts, questions in read:
            groups = _by_id(files.load_json(questions), questions)
            items += [_item(part, row, groups) for row in files.rows_in(prompts)]
        return JudgedSet(edition=edition, items=items)

    def ask(self, case: Case, words: Mapping[str, str], options: ReadingOptions) -> tuple[Call, ...]:
        """A description, then each group of questions."""
        calls = [Call(name="description", text=words["describe"], images=shown("result"), read=any_text)]
        for group, questions in case.metadata["facts"]["groups"].items():
            names = [key for key in questions if re.fullmatch(r"q\d+", key)]
            places = {
                "{questions}": json.dumps(questions, ensure_ascii=False, indent=1),
                "{dict}": str(questions),
                "{count}": str(len(names)),
            }
            text = wording.fill(words["questions"], places)
            read = any_list("score") if options.scripted else json_list("score", names, (0, 1))
            calls.append(Call(name=group, text=text, images=(), read=read, after="description"))
        return tuple(calls)

    def combine(self, case: Case, scores: Mapping[str, Mapping[str, float]], options: Any) -> dict[str, float]:
        """Means of the answers, weighted by group; an accuracy that lacks a group is missing."""
        means = {group: statistics.fmean(found.values()) for group, found in scores.items() if found}
        weights = PARTS[case.tag][1]
        values = {"quality": means[QUALITY]} if QUALITY in means else {}
        if weights.keys() <= means.keys():
            values["accuracy"] = sum(weight * means[group] for group, weight in weights.items())
        return values


def _by_id(content: Any, path: Path) -> dict[str, Any]:
    if isinstance(content, list) and all(isinstance(row, dict) for row in content):
        return {str(row.get("id", number)): row for number, row in enumerate(content, 1)}
    if isinstance(content, dict) and all(isinstance(row, dict) for row in content.values()):
        return content
    raise UserError(f"{path}: expected questions by case")


def _item(part: str, row: files.Row, asked: Mapping[str, Any]) -> Item:
    number, prompt, folder = row.text("id"), row.text("prompt"), PARTS[part][0]
    if not number.isdecimal():
        raise UserError(f"{row.where}: expected a whole number as id but got {number[:40]!r}")
    groups = {group: (asked.get(number) or {}).get(group) for group in (*PARTS[part][1], QUALITY)}
    for group, questions in groups.items():
        if not isinstance(questions, dict) or "q1" not in questions:
            raise UserError(f"{row.where}: no questions under {group!r}; ids of prompts and questions must agree")
    file = f"{int(number):04d}"
    return Item(
        id=f"{part}-{file}",
        prompt=prompt,
        task=part,
        subtask=str(row.get("tag") or ""),
        facts={"groups": groups},
        where=row.where,
        layout=tuple(f"{place}/{file}.{suffix}" for place in (folder, part) for suffix in ("png", "jpg")),
    )


if __name__ == "__main__":
    from evals.harness import cli
    from got.util.interrupts import leave

    leave(cli.main("t2i_reasonbench"))
