"""GenEval++: counts, colours, places and sizes together, judged as a whole. 280 prompts, seven tags of 40.

Source: Ye et al., *Echo-4o*, arXiv 2508.09987, and its repository. A prompt's metadata become a checklist for the
judge; one flag per image. The checklist's words are ours, also beside the published system message.

    python -m evals.genevalpp --data Echo-4o --model got --judge openai
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evals.judged import api as judged

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

FILE = "Geneval++.jsonl"
TAGS = ("color_attr", "spatial_count_attr", "color_spatial_attr", "color_count_attr", "multi_object_count_attr",
        "size_spatial_attr", "counting")  # fmt: skip


def _published(path: Path) -> dict[str, str]:
    places = {"{instruction}": "{prompt}", "{explanation}": "{checklist}"}
    question = judged.wording.text_with(path, "process_sample", places)
    return {**judged.wording.variables(path, {"system": "SYSTEM_PROMPT"}), "question": question}


class GenEvalPlusPlus(judged.JudgedSuite):
    """The benchmark."""

    name = "genevalpp"
    title = "GenEval++"
    script = judged.wording.Published(file="test_scripts/Eval-gpt-4.1-geneval++.py", read=_published)
    metrics = (
        judged.Metric(name="overall", of=("correct",), over="tasks", share=True),
        judged.Metric(name="over prompts", of=("correct",), share=True),
    )
    sending = judged.Sending(max_tokens=200, encoding=judged.Encoding(format="JPEG"))

    def load(self, root: Path, options: judged.JudgedOptions) -> judged.JudgedSet:
        """One file; an image's number is that of its prompt's line."""
        path = self.find(root, f"test_scripts/{FILE}", FILE)
        edition = self.hashed("geneval++", [path], options)
        items = [_item(number, row) for number, row in enumerate(judged.files.rows_in(path), 1)]
        return judged.JudgedSet(edition=edition, items=items)

    def ask(self, case: judged.Case, words: Mapping[str, str], options: Any) -> tuple[judged.Call, ...]:
        """One question."""
        read, shown = judged.json_scores({"correct": (0, 1)}), judged.shown("result")
        return (judged.question(case, "image", words["question"], shown, read, system=words["system"]),)

    def combine(self, case: judged.Case, scores: judged.Scores, options: Any) -> dict[str, float]:
        """The flag. The official script counts a missing one as 0: that is the lower bound."""
        return dict(scores.get("image", {}))


def checklist(include: Sequence[Mapping[str, Any]], exclude: Sequence[Mapping[str, Any]]) -> str:
    """What must hold, a line each.

    >>> cats = {"class": "cat", "count": 2, "color": "red", "region": "left"}
    >>> print(checklist([cats], [{"class": "cat", "count": 3}]))
    - 2 cats, red, in the left part of the image
    - no more than 2 cats
    """
    lines = []
    for item in include:
        count = int(item.get("count", 1))
        facts = [f"{count} {item['class']}{'s' * (count > 1)}"]
        facts += [str(item["color"])] if item.get("color") else []
        facts += [f"{item['size']} than the others"] if item.get("size") else []
        facts += [f"in the {item['region']} part of the image"] if item.get("region") else []
        lines.append("- " + ", ".join(facts))
    for item in exclude:
        most = int(item["count"]) - 1
        lines.append(f"- no more than {most} {item['class']}{'s' * (most != 1)}")
    return "\n".join(lines)


def _item(number: int, row: judged.files.Row) -> judged.Item:
    prompt, tag = row.text("prompt"), row.one_of("tag", TAGS)
    try:
        listed = checklist(row["include"], row.get("exclude", ()))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise judged.UserError(
            f"{row.where}: expected objects with class and count under include and exclude"
        ) from error
    names = tuple(f"{folder}{number}.{suffix}" for folder in ("image/", "") for suffix in ("jpg", "png"))
    texts = {"{prompt}": prompt, "{checklist}": listed}
    return judged.Item(id=str(number), prompt=prompt, task=tag, texts=texts, layout=names)


if __name__ == "__main__":
    judged.main("genevalpp")
