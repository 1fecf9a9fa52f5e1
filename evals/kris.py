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
from evals.judged.records import Item, JudgedSet, Metric
from evals.judged.reported import reported
from evals.judged.suite import JudgedSuite
from evals.judges.calls import Call, Sending, Shown
from evals.judges.readers import json_scores
from evals.judges.scripted import any_grade, either_grade
from evals.suite import OBSERVE, option

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from evals.judged.records import Reported
    from evals.judges.readers import Reader
    from evals.suite import Case

DIMENSIONS = {
    "attribute_perception": {"count_change": 50, "color_change": 50, "size_adjustment": 50, "part_completion": 50,
                             "anomaly_correction": 75},
    "spatial_perception": {"viewpoint_change": 50, "position_movement": 50},
    "temporal_prediction": {"temporal_prediction": 74},
    "social_science": {"humanities": 75, "practical_knowledge": 50},
    "natural_science": {"biology": 68, "chemistry": 75, "geography": 75, "mathematics": 50, "medicine": 50,
                        "physics": 75},
    "logical_reasoning": {"abstract_reasoning": 75, "rule-based_reasoning": 75},
    "instruction_decomposition": {"multi-element_composition": 75, "multi-instruction_execution": 75},
}  # fmt: skip
"""Categories with the cases of the published set, by dimension."""
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
ANOMALY = "-anomaly"
"""Ends the name of an edition that asks about anomalies by their own question."""
WORDS = {
    "consist": "prompt_consist",
    "instruction": "prompt_instruction_following",
    "quality": "prompt_quality",
    "view": "prompt_view_instruction_following",
    "dual": "prompt_dual_evaluation",
    "consist_multi": "prompt_consist_multi",
    "instruction_multi": "prompt_instruction_multi",
    "consist_temporal": "prompt_consist_temporal",
    "instruction_temporal": "prompt_instruction_temporal",
    "anomaly": "prompt_abnormal_instruction_following",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(ReadingOptions):
    """Variants of the questions."""

    anomaly_question: bool = option(
        False, "ask of anomalies by their own question, which the official scripts have and never use", stage=OBSERVE
    )

    @property
    def mark(self) -> str:
        """Whether anomalies have their own question, and how replies are read."""
        return f"{ANOMALY if self.anomaly_question else ''}{super().mark}"


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
        whole = {category: cases for some in DIMENSIONS.values() for category, cases in some.items()}
        merged, allowed = folder / MERGED, options.allow_other_data
        if merged.is_file():
            edition = files.edition("kris-1267", [merged], self.origin, allowed=allowed)
        else:
            edition = files.counted("kris-1267", items, lambda item: item.subtask, whole, allowed=allowed)
        return JudgedSet(edition=edition, items=items)

    def ask(self, case: Case, words: Mapping[str, str], options: Options) -> tuple[Call, ...]:
        """Three questions, by the category."""
        facts, texts = case.metadata["facts"], case.metadata["texts"]
        category, result = case.metadata["subtask"], (Shown(role="result", label="Image to evaluate:"),)
        consist, instruct = QUESTIONS.get(category, ("consist", "instruction"))
        if category == "anomaly_correction" and options.anomaly_question:
            instruct = "anomaly"
        shown = tuple(Shown(role=role, label=label) for role, label in _labelled(category, facts))
        truth = (Shown(role="truth", label="Ground truth:"),) if category == "viewpoint_change" else ()
        grades = ("IF", "KP") if category in KNOWLEDGE else ("IF",)
        asked = (("consistency", consist, shown, ("VC",)), ("instruction", instruct, (*shown, *truth), grades),
                 ("quality", "quality", result, ("VQ",)))  # fmt: skip
        return tuple(
            Call(name=name, text=wording.fill(words[word], texts), images=images,
                 read=reader([GRADES[grade] for grade in wanted], category, scripted=options.scripted))
            for name, word, images, wanted in asked
        )  # fmt: skip

    def expects(self, case: Case, options: Options) -> frozenset[str]:
        """Knowledge in knowledge's categories alone."""
        known = {"KP"} if case.metadata["subtask"] in KNOWLEDGE else set()
        return frozenset({"case", "VC", "IF", "VQ", *known})

    def combine(self, case: Case, scores: Mapping[str, Mapping[str, float]], options: Any) -> dict[str, float]:
        """Grades from 0 to 100; the case's own is their mean, of those that there are, as the authors have it."""
        flat = {key: value for found in scores.values() for key, value in found.items()}
        grades = {name: 25 * (flat[key] - 1) for name, key in GRADES.items() if key in flat}
        return {**grades, "case": statistics.fmean(grades.values())} if grades else {}

    def reported(self, edition: str) -> list[Reported]:
        """By the mean over edits; of other means, or other questions, one would compare two things."""
        if ANOMALY in edition:
            return []
        weights = {dimension: float(sum(some.values())) for dimension, some in DIMENSIONS.items()}
        return reported("KRIS-Bench", "1267 cases; overall = item mean", weights=weights)


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


def _rows(folder: Path) -> Iterator[tuple[str, str, Mapping[str, Any], str]]:
    """Category, id and row of each case, and where it is."""
    merged = folder / MERGED
    if merged.is_file():
        for number, row in enumerate(files.rows_in(merged), 1):
            where = f"{merged.name} row {number}"
            yield files.text_of(row, "type", where), files.text_of(row, "id", where), row, where
        return
    for category in DIMENSION_OF:
        path = folder / category / "annotation.json"
        if path.is_file():
            for id, row in files.rows_by_key(path).items():
                yield category, id, row, f"{category}/{path.name} key {id}"


def _item(category: str, id: str, row: Mapping[str, Any], place: str, folder: Path) -> Item:
    where = f"{folder.name}/{category} {id}"
    if category not in DIMENSION_OF:
        raise UserError(f"{where}: expected a category of {', '.join(DIMENSION_OF)} but got {category!r}")
    prompt, given = files.text_of(row, "ins_en", where), row.get("ori_img")
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{where}: expected one image or more under 'ori_img' but got {str(given)[:60]}")
    images_of = folder / category if (folder / category).is_dir() else folder
    found = [files.image(images_of, name, where) for name in names]
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
        images["truth"] = files.image(images_of, files.text_of(row, "gt_img", where), where)
    texts = {
        "{instruct}": prompt,
        "{explanation}": str(row.get("explain_en") or ""),
        "{N}": str(facts.get("frame", "")),
    }
    return Item(
        id=f"{category}-{id}",
        prompt=prompt,
        task=DIMENSION_OF[category],
        subtask=category,
        texts=texts,
        facts=facts,
        images=images,
        where=place,
        layout=tuple(f"{category}/{id}.{suffix}" for suffix in ("jpg", "png")),
    )


if __name__ == "__main__":
    from evals.harness import cli
    from got.util.interrupts import leave

    leave(cli.main("kris"))
