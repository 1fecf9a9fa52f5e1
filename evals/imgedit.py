"""ImgEdit-Bench: 737 edits of nine kinds (basic), and 47 hard ones (UGE), with grades from 1 to 5.

Source: Ye et al., *ImgEdit*, arXiv 2505.20275, and its repository. Its code defines no overall: the headline is the
plain mean of the nine kinds, as 9 of the 12 rows of its leaderboard have it, with the mean over edits beside it.
All nine wordings say that no grade may exceed the first, and nothing enforces it: `capped` does, `exceeds` counts.

    python -m evals.imgedit --data ImgEdit/Benchmark --model folder:my_edits --judge openai
    python -m evals.imgedit --data ImgEdit/Benchmark --edition uge --model got --judge hf:ImgEdit_Judge
"""

from __future__ import annotations

import dataclasses
import statistics
from typing import TYPE_CHECKING, Any

from evals.judged import api as judged

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

KINDS = {
    "replace": ("Prompt Compliance", "Visual Naturalness", "Physical & Detail Integrity"),
    "remove": ("Prompt Compliance", "Visual Naturalness", "Physical & Detail Integrity"),
    "add": ("Prompt Compliance", "Visual Naturalness", "Physical & Detail Coherence"),
    "adjust": ("Prompt Compliance", "Visual Seamlessness", "Physical & Detail Fidelity"),
    "style": ("Style Fidelity", "Content Preservation", "Rendering Quality"),
    "action": ("Action Fidelity", "Identity Preservation", "Visual & Anatomical Coherence"),
    "extract": ("Object Identity", "Mask Precision", "Visual Quality"),
    "background": ("Instruction Compliance", "Visual Seamlessness", "Physical Consistency"),
    "compose": ("Instruction Compliance", "Visual Naturalness", "Physical Consistency & Fine Detail"),
}
"""Kinds of edits, which papers call compose hybrid, and what each is graded by."""
PLACE = "<edit_prompt>"
_EDITIONS = {"basic": ("Basic/basic_edit.json", "singleturn"), "uge": ("UGE/UGE_edit.json", "hard")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(judged.ReadingOptions):
    """Which part."""

    edition: str = judged.editions("basic", "uge")


class ImgEdit(judged.JudgedSuite):
    """The benchmark."""

    name = "imgedit"
    title = "ImgEdit-Bench"
    edits = True
    options = Options
    metrics = (
        judged.Metric(name="overall", of=("score",), over="tasks", scale=(1, 5), digits=2),
        judged.Metric(name="over edits", of=("score",), scale=(1, 5), digits=2),
        judged.Metric(name="capped", of=("capped",), over="tasks", scale=(1, 5), digits=2),
        judged.Metric(name="exceeds", of=("exceeds",), digits=2),
    )
    sending = judged.Sending(temperature=None)

    def load(self, root: Path, options: Options) -> judged.JudgedSet:
        """A file of edits by key, and a folder of images."""
        name, folder = _EDITIONS[options.edition]
        path = self.find(root, name, f"Benchmark/{name}", name.rpartition("/")[2])
        edition = self.hashed(f"imgedit-{options.edition}", [path], options)
        images, uge = self.find(root, folder, f"Benchmark/{folder}", folder=True), options.edition == "uge"
        items = [_item(key, row, images, uge=uge) for key, row in judged.files.rows_by_key(path).items()]
        return judged.JudgedSet(edition=edition, items=items)

    def published(self, options: Options) -> judged.wording.Published:
        """A JSON file of nine texts; of UGE a variable of its script."""
        if options.edition == "uge":
            return judged.wording.Published(
                file="Benchmark/UGE/UGE_bench.py", read=lambda path: judged.wording.variables(path, {"uge": "prompt"})
            )
        return judged.wording.Published(file="Benchmark/Basic/prompts.json", read=judged.wording.json_texts)

    def ask(self, case: judged.Case, words: Mapping[str, str], options: Options) -> tuple[judged.Call, ...]:
        """One question about source and result."""
        if options.edition == "uge":
            text, strict = words["uge"], judged.labelled("Score", ["score"], (1, 5))
        else:
            text = words[case.tag] if case.tag in words else ours_of(words, case.tag)
            strict = judged.named_lines(KINDS[case.tag], (1, 5))
        read = options.reader(strict, judged.any_numbers)
        return (judged.question(case, "edit", text, judged.shown("source", "result"), read),)

    def combine(self, case: judged.Case, scores: judged.Scores, options: Any) -> dict[str, float]:
        """The mean of the grades, rounded to two digits as the script does; and with the first as a cap."""
        grades = list(scores.get("edit", {}).values())
        if not grades:
            return {}
        first = grades[0]
        return {
            "score": round(statistics.fmean(grades), 2),
            "capped": round(statistics.fmean(min(first, grade) for grade in grades), 2),
            "exceeds": float(max(grades) > first),
        }


def ours_of(words: Mapping[str, str], kind: str) -> str:
    """Our question about one kind of edit."""
    means = dict(line.split(" = ", 1) for line in words["means"].splitlines())
    first, second, third = KINDS[kind]
    places = {"{task}": kind, "{first}": first, "{second}": second, "{third}": third}
    return judged.wording.fill(
        words["question"], {**places, "{second_means}": means[second], "{third_means}": means[third]}
    )


def _item(key: str, row: judged.files.Row, images: Path, *, uge: bool) -> judged.Item:
    kind, prompt, image = "uge" if uge else row.one_of("edit_type", KINDS), row.text("prompt"), row.text("id")
    return judged.Item(
        id=key,
        prompt=prompt,
        task=kind,
        texts={PLACE: prompt},
        images={"source": row.image(images, image)},
        group=image,
        layout=(f"{key}.png",),
    )


if __name__ == "__main__":
    judged.main("imgedit")
