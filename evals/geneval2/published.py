"""GenEval 2's published set: 800 prompts, and 6,012 questions that a vision-language model answers with one token.

Soft-TIFA takes the probability of the right answer, by the first token of each of its spellings; TIFA whether the
likeliest token is one of them; VQAScore the probability of yes to one question about the whole prompt.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from evals.core.records import UserError
from evals.core.vocabulary import NUMBERS
from evals.geneval2 import atoms
from evals.geneval2.icon_cases import tag_of
from evals.judged import files, summaries, wording
from evals.judged.records import Item, JudgedSet, Metric
from evals.judged.suite import JudgedSuite
from evals.judges.calls import Call, Sending, Shown
from evals.suite import tables as shared
from got.util.tables import number, span

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rich.table import Table

    from evals.geneval2.options import Options
    from evals.judged.records import Reported
    from evals.suite import Case

FILE = "geneval2_data.jsonl"
IMAGES = "geneval2_images.json"
"""Images by prompt, as the official script is given them."""
TOP_TOKENS = 20
"""So many likely tokens an endpoint tells."""
_MOST_OF_A_SKILL = 5
"""More questions of one skill than any prompt has."""
_PARTS = ("count_one", "count_more")
_TRAINED = "trained on GenEval 2 templates"
"""What the name of such a model says in the reported rows."""


def _pooled(skill: str) -> tuple[str, ...]:
    parts = _PARTS if skill == "count" else (skill,)
    return tuple(f"{part}/{i}" for part in parts for i in range(_MOST_OF_A_SKILL))


HEADLINES = ("soft_tifa_gm", "soft_tifa_am", "tifa", "vqascore")
SKILL_NAMES = (*atoms.SKILLS, *_PARTS)


def _published(path: Path) -> dict[str, str]:
    """What Soft-TIFA asks, and what VQAScore does."""
    asked = (("question", "soft_tifa"), ("whole", "vqa_score"))
    place = {"question": "{question}", "whole": "{prompt}"}
    return {name: wording.text_with(path, function, {"{}": place[name]}) for name, function in asked}


class PublishedEdition(JudgedSuite):
    """The published set."""

    name = "geneval2"
    title = "GenEval 2"
    script = wording.Published(file="evaluation.py", read=_published)
    metrics = (
        *(Metric(name=name, of=(name,), times=100.0, digits=2) for name in HEADLINES),
        *(Metric(name=name, of=_pooled(name), times=100.0, digits=2) for name in SKILL_NAMES),
    )
    """Headlines are means of prompts; skills pool all questions."""
    listing = IMAGES
    sending = Sending(max_tokens=1, images_first=True)

    def load(self, root: Path, options: Any) -> JudgedSet:
        """One file; prompts are numbered by its lines."""
        path = files.find(root, (FILE,), self.origin)
        edition = files.edition("geneval2", [path], self.origin, allowed=options.allow_other_data)
        items = tuple(_item(number, row) for number, row in enumerate(files.rows_in(path)))
        prompts = [item.prompt for item in items]
        if again := next((text for text in prompts if prompts.count(text) > 1), None):
            raise UserError(f"{path}: the prompt {again!r} occurs twice; official results are named by prompts")
        return JudgedSet(edition=edition, items=items)

    def edition(self, options: Options) -> str:
        """That of the data; with the floor, where an endpoint tells the likeliest tokens alone."""
        name = super().edition(options)
        return f"{name}-top{TOP_TOKENS}-floor{options.topk_floor:g}" if _is_endpoint(options) else name

    def ask(self, case: Case, words: Mapping[str, str], options: Any) -> tuple[Call, ...]:
        """Every question of the prompt, then the one about it as a whole."""
        shown, facts = (Shown(role="result"),), case.metadata["facts"]
        asked = [
            Call(
                name=str(number),
                text=wording.fill(words["question"], {"{question}": question}),
                images=shown,
                spellings=spellings(skill, answer),
                read=_tifa(spellings(skill, answer)),
            )
            for number, ((question, answer), skill) in enumerate(zip(facts["vqa_list"], facts["skills"], strict=True))
        ]
        whole = wording.fill(words["whole"], case.metadata["texts"])
        return (*asked, Call(name="whole", text=whole, images=shown, spellings=YES))

    def combine(self, case: Case, scores: Mapping[str, Mapping[str, float]], options: Options) -> dict[str, float]:
        """Means over the questions, if all have an answer, and each answer under its skill."""
        facts = case.metadata["facts"]
        least = options.topk_floor if _is_endpoint(options) else 0.0
        values = {"vqascore": max(scores["whole"]["whole"], least)} if "whole" in scores else {}
        found = {name: max(one[name], least) for name, one in scores.items() if name != "whole"}
        if len(found) == len(facts["skills"]):
            probabilities = list(found.values())
            values["soft_tifa_am"] = atoms.arithmetic(probabilities)
            values["soft_tifa_gm"] = atoms.geometric(probabilities)
            values["tifa"] = atoms.arithmetic([scores[name]["tifa"] for name in found])
        names = value_names(facts["skills"], [answer for _, answer in facts["vqa_list"]])
        return {**values, **{names[int(number)]: p for number, p in found.items()}}

    def expects(self, case: Case, options: Any) -> frozenset[str]:
        """What all prompts have, and the skills of this one."""
        facts = case.metadata["facts"]
        own = value_names(facts["skills"], [answer for _, answer in facts["vqa_list"]])
        return frozenset((*HEADLINES, *own))

    def tables(self, scores: Mapping[str, Any]) -> list[Table]:
        """By number of atoms and by skill, and reported rows."""
        return tables(scores, self.rows_beside(scores["edition"]))

    def reported(self, edition: str) -> list[Reported]:
        """Of the same prompts, by the geometric mean."""
        rows = super().reported(edition)
        return [dataclasses.replace(row, apart=_TRAINED if _TRAINED in row.model else "") for row in rows]


def _is_endpoint(options: Options) -> bool:
    return options.judge.partition(":")[0] == "openai"


YES = ("Yes", "yes", " yes", " Yes")


def spellings(skill: str, answer: str) -> tuple[str, ...]:
    """How the right answer may be written; its first token is what counts.

    >>> spellings("count", "two")
    ('two', 'Two', ' two', ' Two', '2', ' 2')
    """
    if skill != "count":
        return YES
    digit = str(NUMBERS.index(answer)) if answer in NUMBERS[1:] else "other"
    return answer, answer.capitalize(), f" {answer}", f" {answer.capitalize()}", digit, f" {digit}"


def _tifa(accepted: Sequence[str]) -> Any:
    """Whether the likeliest token, in small letters, is one of the spellings."""
    return lambda text: {"tifa": float(text.lower() in accepted)}


def value_names(skills: Sequence[str], answers: Sequence[str]) -> list[str]:
    """A name for the value of each question.

    >>> value_names(["object", "count", "object", "count"], ["Yes", "one", "Yes", "two"])
    ['object/0', 'count_one/0', 'object/1', 'count_more/0']
    """
    kinds = [
        skill if skill != "count" else _PARTS[answer != "one"] for skill, answer in zip(skills, answers, strict=True)
    ]
    return [f"{kind}/{kinds[:i].count(kind)}" for i, kind in enumerate(kinds)]


def _item(number: int, row: files.Row) -> Item:
    where, prompt = row.where, row.text("prompt")
    given: list[Any] = [row.get(key) for key in ("vqa_list", "skills", "atom_count")]
    asked, skills, count = given
    pairs = isinstance(asked, list) and all(isinstance(one, list) and len(one) == 2 for one in asked)
    if not pairs or not isinstance(skills, list) or len(skills) != len(asked) or not isinstance(count, int):
        raise UserError(f"{where}: expected vqa_list with a question and an answer for each of skills, and atom_count")
    if unknown := next((skill for skill in skills if skill not in atoms.SKILLS), None):
        raise UserError(f"{where}: expected skills of {', '.join(atoms.SKILLS)} but got {unknown!r}")
    ones = sum(answer == "one" for _, answer in asked)
    if len(asked) - ones != count:
        raise UserError(f"{where}: expected {count} questions beside those about one but got {len(asked) - ones}")
    facts = {"vqa_list": asked, "skills": skills, "atom_count": count}
    id = f"{number:05d}"
    texts, place = {"{prompt}": prompt}, (f"images/{id}.png",)
    return Item(id=id, prompt=prompt, task=tag_of(count), texts=texts, facts=facts, layout=place)


def tables(scores: Mapping[str, Any], rows: Sequence[Reported]) -> list[Table]:
    """Headlines by number of atoms, answers by skill, and what others report."""
    metrics = scores["metrics"]
    names = {name: how for name, how in metrics["names"].items() if name in HEADLINES}
    shown = {**scores, "metrics": {**metrics, "names": names}}
    main, *others = summaries.tables(shown, rows)
    return [main, _skill_table(metrics["all"], metrics["floor"]), *others]


def _skill_table(metrics: Mapping[str, Any], floor: Mapping[str, Any]) -> Table:
    columns = ["probability ↑", "95 %\ninterval", "floor", "questions", "missing"]
    caption = "mean probability of the right answer x 100, pooled over all questions of a skill; floor: of blank images"
    table = shared.table("Soft-TIFA by skill", columns, caption, first="skill")
    for name in SKILL_NAMES:
        one = metrics[name]
        value, low, high = (None if one[key] is None else 100 * one[key] for key in ("value", "low", "high"))
        lowest = None if floor[name]["value"] is None else 100 * floor[name]["value"]
        cells = [number(value), span(low, high), number(lowest), str(one["n"]), str(one["missing"] or "")]
        if one["n"] or one["missing"]:
            table.add_row(name.replace("_", ", "), *cells, style="dim" if name in _PARTS else None)
    return table
