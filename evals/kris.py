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

from evals.judged import api as judged

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

DIMENSIONS, LEVELS = judged.origin_of("kris").cases, judged.origin_of("kris").levels
MERGED = "final_data.json"
"""All categories in one file, as BAGEL has them."""
DIMENSION_OF = {category: dimension for dimension, some in DIMENSIONS.items() for category in some}
KNOWLEDGE = {
    category for name in ("social_science", "natural_science", "logical_reasoning") for category in DIMENSIONS[name]
}
GRADES = {"VC": "consistency_score", "IF": "instruction_score", "KP": "knowledge_score", "VQ": "quality_score"}
"""Our names of the grades, and their keys in a reply."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(judged.ReadingOptions):
    """Variants of the questions."""

    anomaly_question: bool = judged.option(
        False,
        "ask of anomalies by their own question, which the official scripts have and never use",
        stage=judged.OBSERVE,
        marks={True: "-anomaly"},
    )


class Kris(judged.JudgedSuite):
    """The benchmark."""

    name = "kris"
    title = "KRIS-Bench"
    edits = True
    options = Options
    metrics = (
        judged.Metric(name="overall", of=("case",), parts=tuple(GRADES), scale=(0, 100), digits=2),
        judged.Metric(name="pooled", of=tuple(GRADES), scale=(0, 100), digits=2),
        *(judged.Metric(name=name, of=(name,), scale=(0, 100), digits=2) for name in GRADES),
    )
    sending = judged.Sending(temperature=None, max_tokens=1000)

    def load(self, root: Path, options: Options) -> judged.JudgedSet:
        """A folder a category, or BAGEL's merged file."""
        folder = next((root / name for name in ("KRIS_Bench", "KRIS-Bench") if (root / name).is_dir()), root)
        items = [_item(*one, folder) for one in _rows(folder)]
        if not items:
            where = f"no CATEGORY/annotation.json and no {MERGED}; get {self.origin.page}"
            raise judged.UserError(f"--data {root}: {where}")
        if (merged := folder / MERGED).is_file():
            edition = self.hashed("kris-1267", [merged], options)
        else:
            edition = self.counted("kris-1267", items, (one.subtask for one in items), options)
        return judged.JudgedSet(edition=edition, items=items)

    def ask(self, case: judged.Case, words: Mapping[str, str], options: Options) -> tuple[judged.Call, ...]:
        """Three questions, by the category."""
        category = case.metadata["subtask"]
        consist, instruct = self.origin.asked([category, case.tag])
        if category == "anomaly_correction" and options.anomaly_question:
            instruct = "anomaly"
        both, result = _shown(category, case.metadata["facts"]), judged.shown(result="Image to evaluate:")
        truth = judged.shown(truth="Ground truth:") if category == "viewpoint_change" else ()
        grades = ["IF", "KP"] if category in KNOWLEDGE else ["IF"]
        return (
            judged.question(case, "consistency", words[consist], both, reader(["VC"], category, options)),
            judged.question(case, "instruction", words[instruct], both + truth, reader(grades, category, options)),
            judged.question(case, "quality", words["quality"], result, reader(["VQ"], category, options)),
        )

    def expects(self, case: judged.Case, options: Options) -> frozenset[str]:
        """Knowledge in knowledge's categories alone."""
        return super().expects(case, options) - (set() if case.metadata["subtask"] in KNOWLEDGE else {"KP"})

    def combine(self, case: judged.Case, scores: judged.Scores, options: Any) -> dict[str, float]:
        """Grades from 0 to 100; the case's own is their mean, of those that there are, as the authors have it."""
        flat = {key: value for found in scores.values() for key, value in found.items()}
        grades = {name: 25 * (flat[key] - 1) for name, key in GRADES.items() if key in flat}
        return {**grades, "case": statistics.fmean(grades.values())} if grades else {}


def reader(grades: Sequence[str], category: str, options: Options) -> judged.Reader:
    """How a reply with some grades is read: the scripts of two categories look for no labels."""
    keys = [GRADES[grade] for grade in grades]
    if not options.scripted:
        return judged.json_scores(dict.fromkeys(keys, (1, 5)))
    if len(keys) > 1:
        return judged.either_grade(keys)
    unlabelled = category in ("multi-element_composition", "temporal_prediction")
    return judged.any_grade(keys[0], None if unlabelled else ":" if category in KNOWLEDGE else ":?")


def _shown(category: str, facts: Mapping[str, Any]) -> tuple[judged.Shown, ...]:
    """The images of a question about an edit, in order."""
    if category == "multi-element_composition":
        references = {f"image {i}": f"Reference Image {i}:" for i in range(1, facts["images"] + 1)}
        return judged.shown(**references, result="Predicted Image:")
    if category == "temporal_prediction":
        frames = {i: (f"frame {i}", "given") for i in range(1, 5)}
        frames[facts["frame"]] = ("result", "predicted")
        return judged.shown(**{role: f"Frame {i} ({which}):" for i, (role, which) in frames.items()})
    return judged.shown(source="Original image:", result="Edited image:")


def _rows(folder: Path) -> list[tuple[str, str, judged.files.Row]]:
    """Category, id and row of each case."""
    if (merged := folder / MERGED).is_file():
        return [(row.text("type"), row.text("id"), row) for row in judged.files.rows_in(merged)]
    paths = [path for category in DIMENSION_OF if (path := folder / category / "annotation.json").is_file()]
    return [(path.parent.name, id, row) for path in paths for id, row in judged.files.rows_by_key(path).items()]


def _item(category: str, id: str, row: judged.files.Row, folder: Path) -> judged.Item:
    found_at, row.where = row.where, f"{folder.name}/{category} {id}"
    if category not in DIMENSION_OF:
        known = ", ".join(DIMENSION_OF)
        raise judged.UserError(f"{row.where}: expected a category of {known} but got {category!r}")
    place = folder / category if (folder / category).is_dir() else folder
    prompt, given = row.text("ins_en"), row.images(place, "ori_img")
    facts: dict[str, Any] = {"images": len(given)}
    images = {"source": given[0], **{f"image {i}": one for i, one in enumerate(given, 1)}}
    if category == "temporal_prediction":
        numbers = [one.name.rpartition("-")[2].partition(".")[0] for one in given]
        lacking = [i for i in range(1, 5) if str(i) not in numbers]
        if len(numbers) != 3 or len(lacking) != 1:
            names = ", ".join(one.name for one in given)
            raise judged.UserError(f"{row.where}: expected three of four frames but got {names}")
        facts["frame"] = lacking[0]
        images |= {f"frame {number}": one for number, one in zip(numbers, given, strict=True)}
    if category == "viewpoint_change":
        images["truth"] = row.image(place, row.text("gt_img"))
    explained, frame = str(row.get("explain_en") or ""), str(facts.get("frame", ""))
    return judged.Item(
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
    judged.main("kris")
