"""GEdit-Bench: 606 edits that users asked for, in English and in Chinese, eleven tasks, with scores from 0 to 10.

Source: Liu et al., *Step1X-Edit*, arXiv 2504.17761, and its data set. G_SC, G_PQ and G_O are the plain means of the
eleven tasks' means. An answer that cannot be read is missing and has bounds; the official script asks once more and
then takes a random number. O is the mean of each image's own O, not the root of the means.

    python -m evals.gedit --data GEdit-Bench --model folder:results/MY_MODEL --judge openai
    python -m evals.gedit --data GEdit-Bench --language cn --subset intersection --model got --judge hf:Qwen2.5-VL-72B
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from evals.editing.datasets import rows_of
from evals.judged import api as judged
from got.util.parquet import ParquetTable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from PIL import Image

    from evals.editing.datasets import Row

TASKS = tuple(judged.origin_of("gedit").counts)
WORDS = ("task_type", "key", "instruction", "instruction_language", "Intersection_exist")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(judged.JudgedOptions):
    """Which part, and whose way of asking."""

    language: str = judged.option(
        "en", "of the instructions (default: %(default)s)", stage=judged.CASES, choices=("en", "cn")
    )
    subset: str = judged.option(
        "full", "intersection: what all compared models answered (default: %(default)s)", stage=judged.CASES,
        choices=("full", "intersection"),
    )  # fmt: skip
    backbone: str = judged.option(
        "gpt",
        "the official way of asking GPT-4.1 (text first, JPEG, no temperature) or Qwen2.5-VL (images first, PNG) "
        "(default: %(default)s)",
        stage=judged.OBSERVE,
        choices=("gpt", "qwen"),
    )


class GEdit(judged.JudgedSuite):
    """The benchmark."""

    name = "gedit"
    title = "GEdit-Bench"
    edits = True
    options = Options
    metrics = (
        judged.Metric(name="G_O", of=("O",), over="tasks", scale=(0, 10), digits=2),
        judged.Metric(name="G_SC", of=("SC",), over="tasks", scale=(0, 10), digits=2),
        judged.Metric(name="G_PQ", of=("PQ",), over="tasks", scale=(0, 10), digits=2),
        judged.Metric(name="O over edits", of=("O",), scale=(0, 10), digits=2),
    )

    def way(self, options: Options) -> judged.Sending:
        """By backbone."""
        if options.backbone == "qwen":
            return judged.Sending(max_tokens=512, images_first=True)
        return judged.Sending(temperature=None, max_tokens=1400, encoding=judged.Encoding(format="JPEG"))

    def load(self, root: Path, options: Options) -> judged.JudgedSet:
        """Parquet files, whose rows of a language are known by their numbers."""
        items = []
        for path in sorted(root.glob("**/*.parquet")):
            rows = rows_of(ParquetTable(path, judged.UserError), WORDS, ["input_image"])
            items += [_item(row) for row in rows if row.values["instruction_language"] == options.language]
        if not items:
            raise judged.UserError(
                f"--data {root}: no Parquet files with instructions in {options.language!r}; get {self.origin.page}"
            )
        name = f"gedit-{options.language}-{options.subset}"
        edition = self.counted(name, items, (item.task for item in items), options)
        chosen = [item for item in items if options.subset == "full" or item.facts["intersection"]]
        return judged.JudgedSet(edition=edition, items=chosen)

    def shown(self, images: Mapping[str, Image.Image]) -> Mapping[str, Image.Image]:
        """The result in the size of the source, whatever its aspect, as the official script has it."""
        from PIL import Image

        size = images["source"].size
        return {**images, "result": images["result"].resize(size, Image.Resampling.BICUBIC)}

    def ask(self, case: judged.Case, words: Mapping[str, str], options: Options) -> tuple[judged.Call, ...]:
        """About the edit, and about the result alone."""
        edit = judged.json_list("score", ("success", "restraint"), (0, 10))
        look = judged.json_list("score", ("naturalness", "cleanness"), (0, 10))
        return (
            judged.question(case, "consistency", words["consistency"], judged.shown("source", "result"), edit),
            judged.question(case, "quality", words["quality"], judged.shown("result"), look),
        )

    def combine(self, case: judged.Case, scores: judged.Scores, options: Any) -> dict[str, float]:
        """The lower score of each question, and the root of their product."""
        calls = {"SC": "consistency", "PQ": "quality"}
        found = {name: min(scores[call].values()) for name, call in calls.items() if call in scores}
        return {**found, "O": math.sqrt(found["SC"] * found["PQ"])} if len(found) == 2 else found


def _item(row: Row) -> judged.Item:
    values = judged.files.Row(row.values, f"{row.table.path.name} row {row.number}")
    key, text, task = values.text("key"), values.text("instruction"), values.one_of("task_type", TASKS)
    columns = {"source": "input_image", "draw_from": "input_image_raw"}
    images = {role: row.image(column) for role, column in columns.items() if column in row.table.columns}
    place = f"{task}/{values['instruction_language']}/{key}"
    try:
        group = images["source"].sha256()[:16]
    except ValueError as error:
        raise judged.UserError(str(error)) from error
    return judged.Item(
        id=key,
        prompt=text,
        task=task,
        texts={"<instruction>": text},
        facts={"intersection": bool(values["Intersection_exist"])},
        images=images,
        group=group,
        where=values.where,
        beside={f"fullset/{place}_SRCIMG.png": "source"},
        layout=(f"fullset/{place}.png", f"{place}.png"),
    )


if __name__ == "__main__":
    judged.main("gedit")
