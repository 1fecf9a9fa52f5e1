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

from evals.judged import api as judged

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PARTS = {
    "idiom": ("idiom_interpretation", "evaluation_idiom.json"),
    "textual": ("textual_image_design", "evaluation_textual_image.json"),
    "entity": ("entity_reasoning", "evaluation_entity.json"),
    "scientific": ("scientific_reasoning", "evaluation_scientific.json"),
}
"""Of each part its file of prompts, which names folders of images, too, and that of questions."""
WEIGHTS = {
    "idiom": {"reason_evaluation": 1.0},
    "textual": {"reason_evaluation": 1.0},
    "entity": {"entity_evaluation": 0.7, "other_details_evaluation": 0.3},
    "scientific": {"scientific_evaluation": 0.7, "other_details_evaluation": 0.3},
}
"""What the accuracy of each part is made of."""
QUALITY = "quality_evaluation"
SCRIPTS = tuple(f"evaluation/Qwen2.5-VL/eval_{name}.py" for name in ("idiom", "textual_image", "entity", "scientific"))


def _published(path: Path) -> dict[str, str]:
    """What all four scripts ask, with a group's questions as Python writes a dictionary."""
    scripts = [judged.wording.constants(path.with_name(script.rpartition("/")[2])) for script in SCRIPTS]
    described = {texts.get("q1") for texts in scripts}
    groups = [texts[name] for texts in scripts for name in ("q2", "q3", "q4") if name in texts]
    asked = {re.sub(r"\{qs_\w+\}", "{dict}", text) for text in groups}
    if None in described or len(described) != 1 or len(asked) != 1 or "{dict}" not in next(iter(asked)):
        what = f"expected one q1 and one text of q2 to q4 in all of {len(scripts)} scripts"
        raise judged.UserError(f"{path.parent}: {what}")
    return {"describe": str(*described), "questions": str(*asked)}


class T2IReasonBench(judged.JudgedSuite):
    """The benchmark."""

    name = "t2i_reasonbench"
    title = "T2I-ReasonBench"
    script = judged.wording.Published(file=SCRIPTS[0], read=_published)
    options = judged.ReadingOptions
    version = 2
    metrics = (
        judged.Metric(name="accuracy", of=("accuracy",), over="tasks", times=100, digits=1),
        judged.Metric(name="quality", of=("quality",), over="tasks", times=100, digits=1),
    )
    sending = judged.Sending(temperature=None, max_tokens=1000, images_first=True)

    def load(self, root: Path, options: judged.ReadingOptions) -> judged.JudgedSet:
        """Four files of prompts and four of questions."""
        places = {}
        for part, (name, asked) in PARTS.items():
            prompts = self.find(root, f"prompts/{name}.json", f"{name}.json")
            places[part] = prompts, self.find(root, f"deepseek_evaluation_qs/{asked}", asked)
        edition = self.hashed("t2i-reasonbench", [path for both in places.values() for path in both], options)
        items = []
        for part, (prompts, questions) in places.items():
            groups = _by_id(judged.files.load_json(questions), questions)
            items += [_item(part, row, groups) for row in judged.files.rows_in(prompts)]
        return judged.JudgedSet(edition=edition, items=items)

    def ask(self, case: judged.Case, words: Mapping[str, str], options: Any) -> tuple[judged.Call, ...]:
        """A description, then each group of questions."""
        calls = [judged.question(case, "description", words["describe"], judged.shown("result"), judged.any_text)]
        for group, questions in case.metadata["facts"]["groups"].items():
            names = [key for key in questions if re.fullmatch(r"q\d+", key)]
            places = {
                "{questions}": json.dumps(questions, ensure_ascii=False, indent=1),
                "{dict}": str(questions),
                "{count}": str(len(names)),
            }
            text = judged.wording.fill(words["questions"], places)
            read = options.reader(judged.json_list("score", names, (0, 1)), judged.any_list("score"))
            calls.append(judged.Call(name=group, text=text, images=(), read=read, after="description"))
        return tuple(calls)

    def combine(self, case: judged.Case, scores: judged.Scores, options: Any) -> dict[str, float]:
        """Means of the answers, weighted by group; an accuracy that lacks a group is missing."""
        means = {group: statistics.fmean(found.values()) for group, found in scores.items() if found}
        weights = WEIGHTS[case.tag]
        values = {"quality": means[QUALITY]} if QUALITY in means else {}
        if weights.keys() <= means.keys():
            values["accuracy"] = sum(weight * means[group] for group, weight in weights.items())
        return values


def _by_id(content: Any, path: Path) -> dict[str, Any]:
    if isinstance(content, list) and all(isinstance(row, dict) for row in content):
        return {str(row.get("id", number)): row for number, row in enumerate(content, 1)}
    if isinstance(content, dict) and all(isinstance(row, dict) for row in content.values()):
        return content
    raise judged.UserError(f"{path}: expected questions by case")


def _item(part: str, row: judged.files.Row, asked: Mapping[str, Any]) -> judged.Item:
    number, prompt, folder = row.text("id"), row.text("prompt"), PARTS[part][0]
    if not number.isdecimal():
        raise judged.UserError(f"{row.where}: expected a whole number as id but got {number[:40]!r}")
    groups = {group: (asked.get(number) or {}).get(group) for group in (*WEIGHTS[part], QUALITY)}
    for group, questions in groups.items():
        if not isinstance(questions, dict) or "q1" not in questions:
            raise judged.UserError(
                f"{row.where}: no questions under {group!r}; ids of prompts and questions must agree"
            )
    file = f"{int(number):04d}"
    return judged.Item(
        id=f"{part}-{file}",
        prompt=prompt,
        task=part,
        subtask=str(row.get("tag") or ""),
        facts={"groups": groups},
        where=row.where,
        layout=tuple(f"{place}/{file}.{suffix}" for place in (folder, part) for suffix in ("png", "jpg")),
    )


if __name__ == "__main__":
    judged.main("t2i_reasonbench")
