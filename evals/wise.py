"""WISE: does an image show what the prompt only implies? 1,000 prompts of culture, time, space and three sciences.

Source: Niu et al., *WISE: A World Knowledge-Informed Semantic Evaluation for Text-to-Image Generation*, arXiv
2503.07265, and its repository, edition Verified of 2026-04 (one score, 0 or 1) and the legacy edition of 2025 (three
scores, 0 to 2). 487 prompts and the ranges of ids differ between the two, and so do judges: they never share a column.

    python -m evals.wise --data WISE --model folder:my_images --judge hf:Qwen3.5-35B-A3B
    python -m evals.wise --data WISE --edition legacy --model got --judge openai
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from evals.judged import api as judged

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PARTS = ("cultural_common_sense", "spatio-temporal_reasoning", "natural_science")
TASKS = {
    "Cultural knowledge": "culture",
    "time": "time",
    "Space": "space",
    "Biology": "biology",
    "Physical Knowledge": "physics",
    "Chemistry": "chemistry",
}
"""A row's category, as it is spelt there, and what it is called in tables."""
GRADES = ("Consistency", "Realism", "Aesthetic Quality")
WEIGHTS = (0.7, 0.2, 0.1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(judged.ReadingOptions):
    """Which edition."""

    edition: str = judged.editions("verified", "legacy")


class Wise(judged.JudgedSuite):
    """The benchmark."""

    name = "wise"
    title = "WISE"
    options = Options

    def way(self, options: Options) -> judged.Sending:
        """Of the verified edition without thinking."""
        if options.edition == "legacy":
            return judged.Sending(max_tokens=2000)
        return judged.Sending(max_tokens=500, extra={"chat_template_kwargs": {"enable_thinking": False}})

    def load(self, root: Path, options: Options) -> judged.JudgedSet:
        """Three files of an edition."""
        place = "data_verified/{}_verified.json" if options.edition == "verified" else "WISE_legacy/data/{}.json"
        names = [place.format(part) for part in PARTS]
        paths = [self.find(root, name, name.rpartition("/")[2]) for name in names]
        edition = self.hashed(f"wise-{options.edition}", paths, options)
        items = [_item(row) for path in paths for row in judged.files.rows_in(path)]
        return judged.JudgedSet(edition=edition, items=items)

    def cases(self, options: Any, context: judged.Context) -> list[judged.Case]:
        """Its prompts; the rewritten ones that come with WISE are of the legacy edition, whose ids are others."""
        given, legacy = options.rewritten_from, [f"{part}_rewrite.json" for part in PARTS]
        found = [name for name in legacy if given and (given.name == name or (given / name).exists())]
        if found and options.edition == "verified":
            why = f"{found[0]} has the legacy edition's prompts, of other ids; --edition legacy"
            raise judged.UserError(f"--rewritten-from {given}: {why}")
        return super().cases(options, context)

    def published(self, options: Options) -> judged.wording.Published:
        """Inside the script that asks."""
        script = "vllm_eval.py" if options.edition == "verified" else "WISE_legacy/gpt_eval.py"
        return judged.wording.Published(file=script, read=_published)

    def ours(self, options: Options) -> str:
        """Of the edition."""
        return f"wise-{options.edition}"

    def ask(self, case: judged.Case, words: Mapping[str, str], options: Options) -> tuple[judged.Call, ...]:
        """One question."""
        if options.edition == "verified":
            read = options.reader(judged.labelled("Score", ["score"], (0, 1), bare=True), judged.first_flag)
        else:
            read = options.reader(judged.named_lines(GRADES, (0, 2)), judged.last_digits(GRADES))
        shown, system = judged.shown("result"), words["system"]
        return (judged.question(case, "image", words["question"], shown, read, system=system),)

    def combine(self, case: judged.Case, scores: judged.Scores, options: Any) -> dict[str, float]:
        """The score itself; of three grades WiScore."""
        if "image" not in scores:
            return {}
        found = scores["image"]
        return {"score": found["score"] if "score" in found else wiscore([found[name] for name in GRADES])}

    def measures(self, options: Options) -> tuple[judged.Metric, ...]:
        """One, whose values are right or wrong in the verified edition."""
        return (judged.Metric(name="overall", of=("score",), share=options.edition == "verified"),)


def wiscore(grades: list[float]) -> float:
    """Three grades from 0 to 2, as one score in [0, 1].

    >>> wiscore([2, 1, 0])
    0.8
    """
    return round(sum(weight * grade for weight, grade in zip(WEIGHTS, grades, strict=True)) / 2, 9)


def _item(row: judged.files.Row) -> judged.Item:
    number, prompt = row.text("prompt_id"), row.text("Prompt")
    return judged.Item(
        id=number,
        prompt=prompt,
        task=TASKS[row.one_of("Category", TASKS)],
        subtask=row.text("Subcategory"),
        texts={"{prompt}": prompt, "{explanation}": row.text("Explanation")},
        where=row.where,
        layout=(f"{number}.png",),
    )


def _published(path: Path) -> dict[str, str]:
    places = {"{prompt_data['Prompt']}": "{prompt}", "{prompt_data['Explanation']}": "{explanation}"}
    asks = "build_evaluation_messages"
    others = [text for text in judged.wording.texts_in(path, asks) if "{" not in text]
    return {"system": max(others, key=len, default=""), "question": judged.wording.text_with(path, asks, places)}


if __name__ == "__main__":
    judged.main("wise")
