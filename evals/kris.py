"""KRIS-Bench: edits that take knowledge. 1,267 cases of 20 categories in seven dimensions; two to four grades each.

Source: Wu et al., *KRIS-Bench*, arXiv 2505.16707, and its repository. Two overalls are in circulation: the mean over
cases, which gives the authors' own rows, and the mean over all single grades, which gives those of BAGEL's script. The
instruction is read from ``ins_en``: the stored scripts ask for other keys, and so with an empty instruction.

    python -m evals.kris --data Kris_Bench --model folder:results/MY_MODEL --judge openai
"""

from __future__ import annotations

import dataclasses
import statistics
from typing import TYPE_CHECKING, Any

from evals.core.records import UserError
from evals.judged import files, wording
from evals.judged.options import ReadingOptions
from evals.judged.records import Item, JudgedSet, Metric, origin_of
from evals.judged.suite import JudgedSuite
from evals.judges.calls import Call, Sending, Shown
from evals.judges.readers import json_scores
from evals.judges.scripted import any_grade, either_grade
from evals.suite import OBSERVE, option

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from evals.judges.readers import Reader
    from evals.suite import Case

DIMENSIONS = origin_of("kris").cases
MERGED = "final_data.json"
"""All categories in one file, as BAGEL has them."""
LEVELS = {
    "factual": ("attribute_perception", "spatial_perception", "temporal_prediction"),
    "conceptual": ("social_science", "natural_science"),
    "procedural": ("logical_reasoning", "instruction_decomposition"),
}
"""Levels of knowledge, of 449, 518 and 300 cases."""
DIMENSION_OF = {category: dimension for dimension, some in DIMENSIONS.items() for category in some}
KNOWLEDGE = {
    category for name in ("social_science", "natural_science", "logical_reasoning") for category in DIMENSIONS[name]
}
QUESTIONS = {
    **dict.fromkeys(KNOWLEDGE, ("consist", "dual")),
    "viewpoint_change": ("consist", "view"),
    "multi-element_composition": ("consist_multi", "instruction_multi"),
    "temporal_prediction": ("consist_temporal", "instruction_temporal"),
}
"""Wordings about consistency and instruction, of categories that are not asked as all others are."""
GRADES = {"VC": "consistency_score", "IF": "instruction_score", "KP": "knowledge_score", "VQ": "quality_score"}
"""Our names of the grades, and their keys in a reply."""
WORDS = {
    **{name: f"prompt_{name}" for name in ("consist", "quality", "consist_multi", "consist_temporal",
                                           "instruction_multi", "instruction_temporal")},
    "instruction": "prompt_instruction_following", "view": "prompt_view_instruction_following",
    "dual": "prompt_dual_evaluation", "anomaly": "prompt_abnormal_instruction_following",
}  # fmt: skip
"""Wordings, and the published variables."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(ReadingOptions):
    """Variants of the questions."""

    anomaly_question: bool = option(
        False, "ask of anomalies by their own question, which the official scripts have and never use", stage=OBSERVE
    )

    @property
    def mark(self) -> str:
        """Whether anomalies have their own question, and how replies are read."""
        return f"{'-anomaly' if self.anomaly_question else ''}{super().mark}"


def _published(path: Path) -> dict[str, str]:
    """All but one are filled by `str.format`; the question about quality goes out as it is, with its doubled braces."""
    filled = wording.variables(path, WORDS, ("instruct", "explanation", "N"))
    return {**filled, **wording.variables(path, {"quality": WORDS["quality"]})}


class Kris(JudgedSuite):
    """The benchmark."""

    name = "kris"
    title = "KRIS-Bench"
    script = wording.Published(file="utils/prompts.py", read=_published)
    edits = True
    options = Options
    metrics = (
        Metric(name="overall", of=("case",), parts=tuple(GRADES), scale=(0, 100), digits=2),
        Metric(name="pooled", of=tuple(GRADES), scale=(0, 100), digits=2),
        *(Metric(name=name, of=(name,), scale=(0, 100), digits=2) for name in GRADES),
    )
    levels = LEVELS
    sending = Sending(temperature=None, max_tokens=1000)

    def load(self, root: Path, options: Options) -> JudgedSet:
        """A folder a category, or BAGEL's merged file."""
        folder = next((root / name for name in ("KRIS_Bench", "KRIS-Bench") if (root / name).is_dir()), root)
        items = [_item(*one, folder) for one in _rows(folder)]
        if not items:
            raise UserError(f"--data {root}: no CATEGORY/annotation.json and no {MERGED}; get {self.origin.page}")
        merged, allowed = folder / MERGED, options.allow_other_data
        if merged.is_file():
            edition = files.edition("kris-1267", [merged], self.origin, allowed=allowed)
        else:
            edition = files.counted("kris-1267", items, (one.subtask for one in items), self.origin, allowed=allowed)
        return JudgedSet(edition=edition, items=items)

    def ask(self, case: Case, words: Mapping[str, str], options: Options) -> tuple[Call, ...]:
        """Three questions, by the category."""
        category, result = case.metadata["subtask"], Shown(role="result", label="Image to evaluate:")
        consist, instruct = QUESTIONS.get(category, ("consist", "instruction"))
        if category == "anomaly_correction" and options.anomaly_question:
            instruct = "anomaly"
        shown = [Shown(role=role, label=label) for role, label in _labelled(category, case.metadata["facts"])]
        truth = [Shown(role="truth", label="Ground truth:")] if category == "viewpoint_change" else []
        grades = ("IF", "KP") if category in KNOWLEDGE else ("IF",)
        asked = (
            ("consistency", consist, shown, ("VC",)),
            ("instruction", instruct, [*shown, *truth], grades),
            ("quality", "quality", [result], ("VQ",)),
        )
        calls = []
        for name, word, images, wanted in asked:
            read = reader([GRADES[grade] for grade in wanted], category, scripted=options.scripted)
            text = wording.fill(words[word], case.metadata["texts"])
            calls.append(Call(name=name, text=text, images=tuple(images), read=read))
        return tuple(calls)

    def expects(self, case: Case, options: Options) -> frozenset[str]:
        """Knowledge in knowledge's categories alone."""
        known = {"KP"} if case.metadata["subtask"] in KNOWLEDGE else set()
        return frozenset({"case", "VC", "IF", "VQ", *known})

    def combine(self, case: Case, scores: Mapping[str, Mapping[str, float]], options: Any) -> dict[str, float]:
        """Grades from 0 to 100; the case's own is their mean, of those that there are, as the authors have it."""
        flat = {key: value for found in scores.values() for key, value in found.items()}
        grades = {name: 25 * (flat[key] - 1) for name, key in GRADES.items() if key in flat}
        return {**grades, "case": statistics.fmean(grades.values())} if grades else {}


def reader(keys: Sequence[str], category: str, *, scripted: bool) -> Reader:
    """How a reply with some grades is read: the scripts of two categories look for no labels."""
    if not scripted:
        return json_scores(dict.fromkeys(keys, (1, 5)))
    if len(keys) > 1:
        return either_grade(keys)
    unlabelled = category in ("multi-element_composition", "temporal_prediction")
    return any_grade(keys[0], None if unlabelled else ":" if category in KNOWLEDGE else ":?")


def _labelled(category: str, facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The images of a question by role, each with the label before it."""
    if category == "multi-element_composition":
        references = [(f"image {i}", f"Reference Image {i}:") for i in range(1, facts["images"] + 1)]
        return [*references, ("result", "Predicted Image:")]
    if category == "temporal_prediction":
        frames = [(f"frame {i}", f"Frame {i} (given):") for i in range(1, 5)]
        frames[facts["frame"] - 1] = ("result", f"Frame {facts['frame']} (predicted):")
        return frames
    return [("source", "Original image:"), ("result", "Edited image:")]


def _rows(folder: Path) -> list[tuple[str, str, files.Row]]:
    """Category, id and row of each case."""
    if (merged := folder / MERGED).is_file():
        return [(row.text("type"), row.text("id"), row) for row in files.rows_in(merged)]
    paths = [path for category in DIMENSION_OF if (path := folder / category / "annotation.json").is_file()]
    return [(path.parent.name, id, row) for path in paths for id, row in files.rows_by_key(path).items()]


def _item(category: str, id: str, row: files.Row, folder: Path) -> Item:
    found_at, row.where = row.where, f"{folder.name}/{category} {id}"
    where = row.where
    if category not in DIMENSION_OF:
        raise UserError(f"{where}: expected a category of {', '.join(DIMENSION_OF)} but got {category!r}")
    prompt, given = row.text("ins_en"), row.get("ori_img")
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{where}: expected one image or more under 'ori_img' but got {str(given)[:60]}")
    place = folder / category if (folder / category).is_dir() else folder
    found = [row.image(place, name) for name in names]
    facts: dict[str, Any] = {"images": len(found)}
    images = {"source": found[0], **{f"image {i}": one for i, one in enumerate(found, 1)}}
    if category == "temporal_prediction":
        numbers = [name.rpartition("-")[2].partition(".")[0] for name in names]
        lacking = [i for i in range(1, 5) if str(i) not in numbers]
        if len(numbers) != 3 or len(lacking) != 1:
            raise UserError(f"{where}: expected three of four frames but got {', '.join(names)}")
        facts["frame"] = lacking[0]
        images |= {f"frame {number}": one for number, one in zip(numbers, found, strict=True)}
    if category == "viewpoint_change":
        images["truth"] = row.image(place, row.text("gt_img"))
    explained, frame = str(row.get("explain_en") or ""), str(facts.get("frame", ""))
    return Item(
        id=f"{category}-{id}",
        prompt=prompt,
        task=DIMENSION_OF[category],
        subtask=category,
        texts={"{instruct}": prompt, "{explanation}": explained, "{N}": frame},
        facts=facts,
        images=images,
        where=found_at,
        layout=tuple(f"{category}/{id}.{suffix}" for suffix in ("jpg", "png")),
    )


if __name__ == "__main__":
    from evals.harness import cli
    from got.util.interrupts import leave

    leave(cli.main("kris"))
