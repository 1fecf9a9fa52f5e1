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

from evals.core.records import UserError
from evals.judged import files, wording
from evals.judged.options import ReadingOptions
from evals.judged.records import Item, JudgedSet, Metric
from evals.judged.suite import JudgedSuite
from evals.judges.calls import Call, Sending, shown
from evals.judges.readers import labelled, named_lines
from evals.judges.scripted import first_flag, last_digits
from evals.suite import CASES, option

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from evals.judged.wording import Published
    from evals.suite import Case, Context

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
class Options(ReadingOptions):
    """Which edition."""

    edition: str = option("verified", "(default: %(default)s)", stage=CASES, choices=("verified", "legacy"))


class Wise(JudgedSuite):
    """The benchmark."""

    name = "wise"
    title = "WISE"
    options = Options

    def way(self, options: Options) -> Sending:
        """Of the verified edition without thinking."""
        if options.edition == "legacy":
            return Sending(max_tokens=2000)
        return Sending(max_tokens=500, extra={"chat_template_kwargs": {"enable_thinking": False}})

    def load(self, root: Path, options: Options) -> JudgedSet:
        """Three files of an edition."""
        verified = options.edition == "verified"
        names = [
            f"data_verified/{part}_verified.json" if verified else f"WISE_legacy/data/{part}.json" for part in PARTS
        ]
        paths = [files.find(root, (name, name.rpartition("/")[2]), self.origin) for name in names]
        edition = files.edition(f"wise-{options.edition}", paths, self.origin, allowed=options.allow_other_data)
        items = [_item(row) for path in paths for row in files.rows_in(path)]
        return JudgedSet(edition=edition, items=items)

    def cases(self, options: Any, context: Context) -> list[Case]:
        """Its prompts; the rewritten ones that come with WISE are of the legacy edition, whose ids are others."""
        given = options.rewritten_from
        if options.edition == "verified" and given is not None and (found := _legacy_rewrite(given)):
            raise UserError(
                f"--rewritten-from {given}: {found} has the legacy edition's prompts, of other ids; --edition legacy"
            )
        return super().cases(options, context)

    def published(self, options: Options) -> Published:
        """Inside the script that asks."""
        script = "vllm_eval.py" if options.edition == "verified" else "WISE_legacy/gpt_eval.py"
        return wording.Published(file=script, read=_published)

    def ours(self, options: Options) -> str:
        """Of the edition."""
        return f"wise-{options.edition}"

    def ask(self, case: Case, words: Mapping[str, str], options: Options) -> tuple[Call, ...]:
        """One question."""
        if options.edition == "verified":
            read = first_flag if options.scripted else labelled("Score", ["score"], (0, 1), bare=True)
        else:
            read = last_digits(GRADES) if options.scripted else named_lines(GRADES, (0, 2))
        text = wording.fill(words["question"], case.metadata["texts"])
        return (Call(name="image", text=text, images=shown("result"), system=words["system"], read=read),)

    def combine(self, case: Case, scores: Mapping[str, Mapping[str, float]], options: Any) -> dict[str, float]:
        """The score itself; of three grades WiScore."""
        if "image" not in scores:
            return {}
        found = scores["image"]
        return {"score": found["score"] if "score" in found else wiscore([found[name] for name in GRADES])}

    def measures(self, options: Options) -> tuple[Metric, ...]:
        """One, whose values are right or wrong in the verified edition."""
        return (Metric(name="overall", of=("score",), share=options.edition == "verified"),)


def wiscore(grades: list[float]) -> float:
    """Three grades from 0 to 2, as one score in [0, 1].

    >>> wiscore([2, 1, 0])
    0.8
    """
    return round(sum(weight * grade for weight, grade in zip(WEIGHTS, grades, strict=True)) / 2, 9)


def _legacy_rewrite(given: Path) -> str | None:
    """The first of WISE's own files of rewritten prompts that is there, if any."""
    names = (f"{part}_rewrite.json" for part in PARTS)
    return next((name for name in names if given.name == name or (given / name).exists()), None)


def _item(row: files.Row) -> Item:
    number, prompt = row.text("prompt_id"), row.text("Prompt")
    return Item(
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
    others = [text for text in wording.texts_in(path, asks) if "{" not in text]
    return {"system": max(others, key=len, default=""), "question": wording.text_with(path, asks, places)}


if __name__ == "__main__":
    from evals.harness import cli
    from got.util.interrupts import leave

    leave(cli.main("wise"))
