"""Two runs case by case: outcomes, paired differences, and what may be said of them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from evals.core.records import UserError, alike, describes, note
from evals.core.vocabulary import task_title
from evals.metrics import statements, statistics
from evals.suite.plain import weighs_cases
from got.util.files import read_object
from got.util.hashes import is_sealed, sealed
from got.util.tables import counted, escaped, span
from reports import formats, names, tables
from reports.frames import digest
from reports.public_scores import UNKNOWN_IMAGES
from reports.samples import load_samples

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from reports.frames import Run
    from reports.samples import SampleRecord

FORMAT = 3
"""Of a baseline's file. 1 does not say which image a verdict is of; 1 and 2 have no hash."""
_SEED = 0
Verdicts: TypeAlias = tuple[bool | None, ...]
"""Of a case's images by their index; None where one is missing."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """What remains of a run when only the verdicts matter."""

    name: str
    made_by: dict[str, Any]
    """What must be equal in two runs that are compared."""
    tasks: dict[str, str]
    """Task of each case."""
    right: dict[str, Verdicts]
    """Verdicts of each case's images."""
    pooled: bool = False
    """Overall all cases weigh the same, as with edits, and not all tasks, as in GenEval."""
    first: dict[str, str] = dataclasses.field(default_factory=dict)
    """Of a case whose prompt an earlier one has, too, that one: both count as one case."""
    groups: dict[str, str] = dataclasses.field(default_factory=dict)
    """Source image of each case that is an edit: edits of one are alike. Empty of prompts."""
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What it was made with, defaults resolved: flags, weights, machine, versions. Empty in older baselines."""
    indexed: bool = True
    """Whether a verdict's place says which image it is of; not in a baseline of format 1."""

    def as_dict(self) -> dict[str, Any]:
        """JSON form: a string of 0, 1 and - per case, a letter per image."""
        cases = {
            case: f"{self.tasks[case]} {''.join(_LETTERS[value] for value in values)}"
            for case, values in self.right.items()
        }
        more = {"pooled": True} if self.pooled else {}
        return sealed({"format": FORMAT, "name": self.name, "made_by": self.made_by, "settings": self.settings, **more,
                       "cases": cases})  # fmt: skip

    def images(self) -> tuple[int, int]:
        """How many images are missing, and how many there should be."""
        return sum(values.count(None) for values in self.right.values()), sum(map(len, self.right.values()))


_LETTERS = {False: "0", True: "1", None: "-"}
_VALUES = {letter: value for value, letter in _LETTERS.items()}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a comparison: a task, or all of them."""

    task: str
    before: float
    after: float
    images: int
    """That both have, with a verdict."""
    difference: statistics.Difference
    words: str


def of_run(run: Run) -> Outcomes:
    """The outcomes of a finished run.

    Raises:
        UserError: It does not say how it was made, or nothing tells right from wrong in it.
    """
    made_by, each = ({}, 0) if run.public_scores is not None else _made_by(run)
    samples = load_samples(run)
    if not run.tells_right_from_wrong:
        raise UserError(f"{run.path} has no verdicts: nothing measured its edits, or could tell right from wrong")
    tasks: dict[str, str] = {}
    right: dict[str, list[bool | None]] = {}
    for sample in samples:
        tasks.setdefault(sample.case, sample.task)
        values = right.setdefault(sample.case, [])
        values += [None] * (max(each, sample.index + 1) - len(values))
        values[sample.index] = {"right": True, "wrong": False}.get(sample.outcome)
    return Outcomes(
        name=run.name,
        made_by=made_by,
        tasks=tasks,
        right={case: tuple(right[case]) for case in sorted(right)},
        pooled=weighs_cases(run.scores),
        first=_repeated(samples) if "tasks" in run.scores and not run.judged_as else {},
        groups={sample.case: sample.group for sample in samples if sample.group is not None},
        settings=_settings(run.spec),
    )


def _settings(spec: dict[str, Any]) -> dict[str, Any]:
    """Flags with their defaults resolved, weights, machine and versions."""
    machine, generate = spec.get("machine") or {}, (spec.get("identity") or {}).get("generate") or {}
    found = names.settings_of(spec)
    if weights := digest(generate.get("weights_sha256") or {}):
        found["weights"] = weights
    found |= {key: str(machine[key])[:8] for key in ("device", "dtype", "commit") if machine.get(key)}
    return found | dict(machine.get("packages") or {})


def changed_settings(a: Outcomes, b: Outcomes, form: str = "text") -> str:
    """What was set, or installed, otherwise in the later run: the first thing that a comparison says."""
    found = names.changed(a.settings, b.settings)
    if not a.settings or not b.settings:
        return ""
    return CLEAN[form](f"Changed settings: {'; '.join(found) or 'none'}.")


def _made_by(run: Run) -> tuple[dict[str, Any], int]:
    """How a run was made, as far as runs that are compared must agree; and images of each prompt."""
    try:
        identity = {stage: run.spec["identity"][stage] for stage in ("generate", "observe", "verdict")}
        generate = {key: identity["generate"][key] for key in ("suite", "images_per_prompt", "seed", "prompts_sha256")}
        each = int(generate["images_per_prompt"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run.path / 'run.json'} does not say how the run was made: {error} is missing") from None
    return {"generate": generate, "observe": identity["observe"], "verdict": identity["verdict"]}, each


def _repeated(samples: Sequence[SampleRecord]) -> dict[str, str]:
    """Cases that ask for the same in the same words as an earlier one -> that one."""
    names = {sample.case: alike(sample.prompt, sample.metadata) for sample in samples}
    first: dict[str, str] = {}
    return {case: first[name] for case, name in sorted(names.items()) if first.setdefault(name, case) != case}


def of_baseline(path: Path) -> Outcomes:
    """The outcomes in a baseline file.

    Raises:
        UserError: The file is missing or no baseline.
    """
    if path.is_dir():
        how = f"`python -m reports baseline {path} --output FILE`"
        raise UserError(f"{path} is a folder; of a run, {how} makes a baseline")
    if not path.exists():
        raise UserError(f"{path} is missing; `python -m reports baseline RUN --output {path}` makes one")
    try:
        content = read_object(path, UserError)
        checked, form = is_sealed(content, str(path)), content.get("format", 1)
        if form not in range(1, FORMAT + 1) or (form == FORMAT and not checked):
            raise ValueError(f"format {form!r} is not known; 1 to {FORMAT} are, the last with a hash")
        if not checked:
            note(f"{path} is of an older version, without a hash: it is not checked for damage")
        cases = {case: _verdicts(text) for case, text in content["cases"].items()}
        return Outcomes(
            name=content["name"],
            made_by=content["made_by"],
            tasks={case: task for case, (task, _) in cases.items()},
            right={case: values for case, (_, values) in cases.items()},
            pooled=bool(content.get("pooled", False)),
            settings=dict(content.get("settings") or {}),
            indexed=form > 1,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        said = f"it has no {error}" if isinstance(error, KeyError) else error
        made = "`python -m reports baseline RUN --output FILE` makes one"
        raise UserError(f"{path} is no baseline: {said}; {made}") from None


def _verdicts(text: str) -> tuple[str, Verdicts]:
    """Task and verdicts of a case. Format 1 has no letter for an image that is missing: its strings may be shorter.

    >>> _verdicts("two words 01-")
    ('two words', (False, True, None))
    """
    task, space, letters = text.rpartition(" ")
    if not space or not letters or set(letters) - set(_VALUES):
        raise ValueError(f"expected a task and a string of {', '.join(_VALUES)} but got {text!r}")
    return task, tuple(_VALUES[letter] for letter in letters)


def compare(a: Outcomes, b: Outcomes) -> list[Row]:
    """Paired differences, b minus a, of each task and (first) of all, as the suite sums up.

    Only images that have a verdict in both count; `unpaired` says what is left out.

    Raises:
        UserError: The two have no image in common.
    """
    pairs = {case: _pair(a, b, case) for case in _common(a, b)}
    for case, other in {**a.first, **b.first}.items():
        if case in pairs and other in pairs:
            earlier, later = pairs[other], pairs.pop(case)
            pairs[other] = (earlier[0] + later[0], earlier[1] + later[1])
    both = [case for case, (first, second) in pairs.items() if first and second]
    if not both:
        judged = any(value is not None for one in (a, b) for values in one.right.values() for value in values)
        hint = "" if judged or not pairs else "; python -m reports table shows numbers that are not right or wrong"
        raise UserError(f"{a.name} and {b.name} have no case in common that has a verdict in both{hint}")
    tasks = list(dict.fromkeys(a.tasks[case] for case in both))
    groups = {"overall": both} | {task: [case for case in both if a.tasks[case] == task] for task in tasks}
    pooled = a.pooled or b.pooled  # a judged run's baseline of before does not say it
    rows = []
    for name, cases in groups.items():
        before, after = ([float(np.mean(pairs[case][side])) for case in cases] for side in (0, 1))
        strata = ["all" if pooled else a.tasks[case] for case in cases]
        images = [min(map(len, pairs[case])) for case in cases]
        rng = np.random.default_rng(_SEED)
        clusters = [a.groups.get(case, b.groups.get(case, case)) for case in cases]
        change = statistics.paired_difference(before, after, rng, images=images, strata=strata, clusters=clusters)
        rows.append(
            Row(
                task=name,
                before=_mean_of_tasks(before, strata),
                after=_mean_of_tasks(after, strata),
                images=sum(images),
                difference=change,
                words=statements.wording(change, unit(a, b)),
            )
        )
    return rows


def _common(a: Outcomes, b: Outcomes) -> list[str]:
    return sorted(a.right.keys() & b.right.keys())


def _are_paired(a: Outcomes, b: Outcomes, case: str) -> bool:
    """Whether images of a case are told apart by their indexes in both, so that each has its counterpart."""
    return (a.indexed and b.indexed) or len(a.right[case]) == len(b.right[case])


def _pair(a: Outcomes, b: Outcomes, case: str) -> tuple[list[bool], list[bool]]:
    """Verdicts of the images that both have; all that each has where nothing tells which image is which."""
    first, second = a.right[case], b.right[case]
    if not _are_paired(a, b, case):
        return [x for x in first if x is not None], [y for y in second if y is not None]
    known = [(x, y) for x, y in zip(first, second, strict=False) if x is not None and y is not None]
    return [x for x, _ in known], [y for _, y in known]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Unpaired:
    """What two runs do not have in common, so that a comparison leaves it out."""

    only_in_a: int
    """Cases."""
    only_in_b: int
    without_verdict: int
    """Cases of both without an image that has a verdict in both."""
    sizes: dict[tuple[int, int], int]
    """Of cases with other numbers of images in the two: those numbers -> how many cases."""
    by_share: int
    """Cases of these whose images have no indexes: all of them count, and none as lost or won."""

    def sentences(self, name_a: str, name_b: str) -> list[str]:
        """The same for people, one sentence for each thing that there is.

        Args:
            name_a: What the earlier run is called.
            name_b: What the later one is called.
        """
        alone = [f"{n:,} only in {name}" for n, name in ((self.only_in_a, name_a), (self.only_in_b, name_b)) if n]
        said = [f"cases not compared: {', '.join(alone)}"] if alone else []
        if self.without_verdict:
            said.append(f"cases not compared, without an image that has a verdict in both: {self.without_verdict:,}")
        for (first, second), cases in sorted(self.sizes.items()):
            common = min(first, second)
            which = "the first image is" if common == 1 else f"the first {common} images are"
            have = f"{counted(cases, 'cases', 'have')} {counted(first, 'images')}"
            words = f"{have} in {name_a} and {second} in {name_b}: {which} compared"
            said.append(words)
        if self.by_share:
            said.append(
                f"{counted(self.by_share, 'cases', 'have')} other numbers of images in {name_a} and {name_b}, and "
                "nothing tells "
                "which image is which: their shares of right images are compared, and none counts as lost or won"
            )
        return said


def unpaired(a: Outcomes, b: Outcomes) -> Unpaired:
    """What `compare` leaves out of two runs."""
    both = _common(a, b)
    sizes: dict[tuple[int, int], int] = {}
    by_share = 0
    for case in both:
        size = len(a.right[case]), len(b.right[case])
        if not _are_paired(a, b, case):
            by_share += 1
        elif size[0] != size[1]:
            sizes[size] = sizes.get(size, 0) + 1
    return Unpaired(
        only_in_a=len(a.right) - len(both),
        only_in_b=len(b.right) - len(both),
        without_verdict=sum(not all(_pair(a, b, case)) for case in both),
        sizes=sizes,
        by_share=by_share,
    )


def _mean_of_tasks(values: Sequence[float], strata: Sequence[str]) -> float:
    return float(np.mean([np.mean([v for v, s in zip(values, strata, strict=True) if s == t]) for t in set(strata)]))


def wordings(before: Run, after: Run) -> str:
    """What to say of cases that are worded otherwise in the two runs; empty where none is.

    Only what was asked the same way is compared: cases of other suites, or of own prompts, may share an id.

    Raises:
        UserError: The runs show photographs and icons, or a case that both have asks for something else in each, or
            they are of other editions, wordings or judges.
    """
    asked = [run.judged_as or "no judge" for run in (before, after)]
    if asked[0] != asked[1]:
        raise UserError(f"{before.name} is of {asked[0]} and {after.name} of {asked[1]}: their scores do not compare")
    worlds = [run.scores.get("world") for run in (before, after)]
    if worlds[0] != worlds[1] and UNKNOWN_IMAGES not in worlds:
        raise UserError(f"{before.name} shows {worlds[0]} and {after.name} {worlds[1]}: their scores do not compare")
    first, second = ({sample.case: sample for sample in load_samples(run)} for run in (before, after))
    both = sorted(first.keys() & second.keys())
    other = [case for case in both if first[case].prompt != second[case].prompt]
    for case in other:
        words = f"case {case} is {first[case].prompt!r} in {before.name} and {second[case].prompt!r} in {after.name}"
        if not _asks_the_same(first[case].metadata, second[case].metadata):
            raise UserError(f"the runs are of other prompts: {words}")
    if not other:
        return ""
    example = f"{first[other[0]].prompt!r} and {second[other[0]].prompt!r}"
    asking = counted(len(other), "cases", "ask", of=len(both))
    return f"{asking} for the same in other words, case {other[0]} in {example}."


def _asks_the_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two cases of GenEval have the same answer key. An edit has none: its words are what it asks for."""
    return bool(one.get("include")) and describes(one) == describes(other)


def flips(a: Outcomes, b: Outcomes) -> dict[str, list[tuple[str, int]]]:
    """Images whose verdict changed, as (case, index): those that were lost, and those that were won."""
    changed: dict[str, list[tuple[str, int]]] = {"lost": [], "won": []}
    for case in _common(a, b):
        if not _are_paired(a, b, case):
            continue
        for index, (before, after) in enumerate(zip(a.right[case], b.right[case], strict=False)):
            if None not in (before, after) and before != after:
                changed["won" if after else "lost"].append((case, index))
    return changed


def unit(a: Outcomes, b: Outcomes) -> str:
    """What the cases of two runs are: edits, which have source images; prompts; or what either may be."""
    return "edits" if a.groups or b.groups else "cases" if a.pooled or b.pooled else "prompts"


def sentence(rows: Sequence[Row], a: Outcomes, b: Outcomes) -> str:
    """A comparison in a sentence for a paper: scores, difference, interval, n, test, and what it could have seen.

    Args:
        rows: The comparison, overall first.
        a: The earlier run.
        b: The later one.
    """
    row, change, cases = rows[0], rows[0].difference, unit(a, b)
    flipped = "source images" if cases == "edits" else cases
    seen = statistics.detectable(change)
    could = f"so few {flipped} cannot tell any two scores apart"
    if seen is not None:
        could = f"a difference of {seen:.3f} would have been found four times in five"
    size = f"{counted(change.cases, cases)} with {counted(row.images, 'images')}"
    return (
        f"On {size}, {b.name} scores {row.after:.3f} and {a.name} {row.before:.3f}: "
        f"a paired difference of {change.value:+z.3f} (95 % interval {span(change.low, change.high, signed=True)}; "
        f"permutation test over {flipped}, p = {change.p_value:.4f}), {row.words.partition(' (')[0]}; {could}."
    )


def comparison_table(
    rows: Sequence[Row], before: str, after: str, unit: str, said: Sequence[str] = (), runs: Sequence[Run] = ()
) -> tables.Table:
    """Two runs task by task.

    Args:
        rows: Overall and by task.
        before: What the earlier run is called.
        after: What the later one is called.
        unit: What its cases are, see `compare.unit`.
        said: What must be said of both, such as what only one has, or other wordings of their prompts; sentences.
        runs: The two, where both are at hand.
    """
    world = str(runs[-1].scores["world"]) if runs else ""
    return tables.Table(
        name="comparison",
        caption=f"{after} against {before}, paired by {unit.removesuffix('s')}.",
        columns=(
            tables.Column(key="before", title=f"before: {before}", best=None),
            tables.Column(key="after", title=f"after: {after}", best=None),
            tables.Column(key="difference", title="difference", best=None, signed=True),
            tables.Column(key="p_value", title="p", best=None, digits=4),
            tables.Column(key="cases", title=unit, best=None, digits=0),
            tables.Column(key="verdict", title="verdict", best=None, aside=True),
        ),
        rows=tuple(
            tables.Row(
                label=task_title(row.task),
                images=world,
                cells=(
                    tables.Cell(value=row.before),
                    tables.Cell(value=row.after),
                    tables.Cell(value=row.difference.value, low=row.difference.low, high=row.difference.high),
                    tables.Cell(value=row.difference.p_value),
                    tables.Cell(value=row.difference.cases),
                    tables.Cell(text=row.words, brief=statements.brief(row.words)),
                ),
            )
            for row in rows
        ),
        notes=(*said, f"{tables.paired(unit)} p values are not corrected for several tasks."),
        origins=tuple(tables.run_notes(runs)),
    )


def shown(
    rows: Sequence[Row],
    a: Outcomes,
    b: Outcomes,
    said: Sequence[str] = (),
    ways: Sequence[str] = ("lost", "won"),
    *,
    form: str = "markdown",
) -> str:
    """The comparison as a table, the images that changed, how many are missing, what else must be said, a sentence.

    Args:
        rows: The comparison, overall first.
        a: The earlier run.
        b: The later one.
        said: Sentences of the caller.
        ways: Which changed images to list.
        form: ``text`` for a terminal of 80 columns, or ``markdown``.
    """
    changed, clean = flips(a, b), CLEAN[form]
    paragraphs = []
    for name in ways:
        images = changed[name]
        listed = ", ".join(f"{case}/{index}" for case, index in images[:20])
        more = f" and {len(images) - 20} more" if len(images) > 20 else ""
        paragraphs.append(f"{counted(len(images), 'images')} {name}{': ' if images else ''}{listed}{more}")
    for one in (a, b):
        missing, total = one.images()
        paragraphs += [f"{counted(missing, 'images', 'have', of=total)} no verdict in {one.name}"] if missing else []
    paragraphs += [*said, sentence(rows, a, b)]
    table = formats.FORMATS[form](comparison_table(rows, a.name, b.name, unit(a, b)))
    return "\n\n".join([table.strip(), *map(clean, paragraphs)]) + "\n"


CLEAN = {"text": formats.paragraph, "markdown": escaped}
"""How paragraphs with words from outside are made harmless in each form; a terminal has 80 columns."""
