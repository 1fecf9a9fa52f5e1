"""Run directories and ablation folders as data: what was run, the scores, and a row per image."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import shlex
from typing import TYPE_CHECKING, Any

from evals.core.records import UserError, note
from evals.core.run_directory import MEND, RunDirectory
from evals.core.vocabulary import task_title
from evals.geneval.prompts import OWN_PROMPTS
from evals.metrics import statements
from evals.metrics.statistics import method_of
from got.util.files import json_object, numbered_lines
from got.util.hashes import HashedFolder
from reports import names, public_scores

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


EDITING_SUITES = ("emu_edit", "imagenhub", "reason_edit")
"""Of the paper."""
OWN_SUITES = ("interactive", "multi_turn")
"""Suites of edits that only the icon world has: a detector says whether the edit is done."""
GENEVAL_PROMPTS = 553


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A finished run, as its directory tells it."""

    path: Path
    spec: dict[str, Any]
    """run.json: arguments, seeds, versions, weights."""
    scores: dict[str, Any]
    """scores.json."""
    name: str = ""
    """What it is called beside others, see `reports.names`; unlike theirs."""
    label: str = ""
    """The same for the row of a table, with its model."""
    public_scores: Path | None = None
    """The file of GenEval's public scorer, where that is all there is of the run."""

    @property
    def model(self) -> str:
        """What drew the images, without the path of a folder."""
        return names.model_of(self.scores)

    @property
    def wording(self) -> str | None:
        """Whose words its prompts are; None where they are the benchmark's. Older runs only say that they are not."""
        if self.judged_as:  # whose words the judge is asked in is said beside the judge
            return None
        if "wording" in self.scores:
            return self.scores["wording"] and str(self.scores["wording"])
        return OWN_PROMPTS if self.scores.get("prompts", "geneval") != "geneval" else None

    @property
    def images(self) -> str:
        """What its images show, whether in other words than the benchmark's, and of which part of it.

        >>> from pathlib import Path
        >>> Run(path=Path("a"), spec={}, scores={"world": "photographs", "wording": "own prompts"}).images
        'photographs, own prompts'
        >>> spec = {"identity": {"generate": {"limit": 60}}}
        >>> Run(path=Path("a"), spec=spec, scores={"world": "icon world", "suite": "geneval"}).images
        'icon world, 60 of 553 prompts'
        """
        return ", ".join(words for words in (str(self.scores["world"]), self.part) if words)

    @property
    def part(self) -> str:
        """In whose words, and which part of its benchmark, `--limit` and `--tasks` leave; empty of the whole."""
        return ", ".join(words for words in (self.wording, self._limited) if words)

    @property
    def _limited(self) -> str:
        """Which part of its benchmark `--limit` and `--tasks` leave; empty of the whole, and of own prompts."""
        chosen = (self.spec.get("identity") or {}).get("generate") or {}
        limit, tasks = chosen.get("limit"), chosen.get("tasks")
        data = self.scores.get("data") or {}
        whole = data.get("of") or (GENEVAL_PROMPTS if self.scores.get("suite") == "geneval" else None)
        if self.wording == OWN_PROMPTS or (not tasks and (not limit or limit >= (whole or limit + 1))):
            return ""
        found = [f"tasks {'+'.join(map(task_title, tasks))}"] if tasks else []
        unit = "edits" if self.is_of_edits else "prompts"
        return " ".join(
            [*found, f"{limit:,}{f' of {whole:,}' if whole and not tasks else ''} {unit}"] if limit else found
        )

    @property
    def is_of_edits(self) -> bool:
        """Whether its cases are edits of source images, not prompts."""
        return "categories" in self.scores

    @property
    def studio(self) -> str:
        """The command that opens its samples in the studio; empty where only the public scorer's file is there.

        >>> from pathlib import Path
        >>> Run(path=Path("my runs/a"), spec={}, scores={}).studio
        "python -m got studio --run 'my runs/a'"
        """
        return "" if self.public_scores else shlex.join(["python", "-m", "got", "studio", "--run", str(self.path)])

    @property
    def is_scored(self) -> bool:
        """Whether any image has a score."""
        overall = self.scores.get("overall") or {}
        return bool(overall.get("images") or overall.get("values") or (overall.get("score") or {}).get("n"))

    @property
    def judged_as(self) -> str:
        """Edition, wording and judge of a judged benchmark: two runs compare if it is the same. Empty of any other."""
        if "edition" not in self.scores or "names" not in self.scores.get("metrics", {}):
            return ""
        judge = str(self.scores["judge"]["name"]).partition("@")[2]
        return f"{self.scores['edition']}-{self.scores['wording']} by {judge}"

    @property
    def tells_right_from_wrong(self) -> bool:
        """False for edits that no detector measured: their verdicts say no more than that the image is not black."""
        return "categories" not in self.scores or bool(self.scores["overall"].get("measured"))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One variant of an ablation."""

    name: str
    settings: dict[str, str]
    """Its flags, e.g. ``{"steps": "10"}``."""
    row: dict[str, Any]
    """Its part of ablation.json: scores, the paired difference to the first cell, the verdict."""
    run: Run | None
    """None if the folder of its images is not there."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """A finished ablation; the first cell is what the others are compared with."""

    path: Path
    name: str
    suite: str
    command: str
    cells: tuple[Cell, ...]
    intervals: str = "bootstrap"
    """How those of the cells' shares were made."""

    @property
    def too_few(self) -> str:
        """Why no variant can come out better or worse, whatever its images show; empty where one can."""
        compared = sum(cell.row["difference"] is not None for cell in self.cells)
        clusters = int(self.cells[0].row["overall"].get("clusters", 0))  # an older one does not say
        return statements.too_few(clusters, compared, "source images" if self.is_of_edits else "prompts")

    @property
    def is_of_edits(self) -> bool:
        """Whether its cases are edits of source images, not prompts."""
        return self.suite in (*EDITING_SUITES, *OWN_SUITES)

    @property
    def is_scored(self) -> bool:
        """Whether any cell has a score."""
        return any(cell.row["overall"]["value"] is not None for cell in self.cells)


def load_run(path: Path) -> Run:
    """Reads what a run says about itself, or what GenEval's public scorer says of one.

    Raises:
        UserError: The folder is no run directory, or the run is not finished.
    """
    return _named([_read(path)], [path.name])[0]


@contextlib.contextmanager
def as_written(*paths: Path) -> Iterator[None]:
    """What reading a run raises at values that no suite writes, said in one line: an older run has no hashes.

    Raises:
        UserError: Instead of all of these.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, OSError) as error:
        places = ", ".join(map(str, paths))
        raise UserError(f"{places} has a log that no suite writes: {type(error).__name__} {error}") from None


def _named(runs: Sequence[Run], folders: Sequence[str], given: Sequence[str] = ()) -> list[Run]:
    with as_written(*(run.path for run in runs)):
        told = names.names_of([(run.spec, run.scores, run.part) for run in runs], folders, given)
    return [dataclasses.replace(run, name=name, label=label) for run, (name, label) in zip(runs, told, strict=True)]


def _read(path: Path) -> Run:
    place = public_scores.place_of(path)
    if place is not None:
        scores = public_scores.scores_of(public_scores.checked(load_lines(place), place), place)
        return Run(path=place.parent, spec={}, scores=scores, public_scores=place)
    if not path.exists():
        raise UserError(
            f"{path} is missing; expected the --output of a finished run, or a public scorer's results.jsonl"
        )
    spec, scores = (_read_json(path / name) for name in ("run.json", "scores.json"))
    if not isinstance(scores.get("overall"), dict):
        raise UserError(f"{path / 'scores.json'} holds no scores: overall is missing; --from verdict makes it again")
    if not HashedFolder(path).is_hashed():
        note(f"{path} is of an older version, without hashes: its files are not checked for damage")
    return Run(path=path, spec=spec, scores=scores)


def load(paths: Sequence[Path], given: Sequence[str] = ()) -> tuple[list[Run], list[Ablation]]:
    """Runs and ablations, told apart by what their folders hold; runs are named by what differs between them.

    Args:
        paths: Folders.
        given: Names of the runs, in order, instead of these.

    Raises:
        UserError: A folder is neither, or the same folder is given twice.
    """
    places = [path.resolve() for path in paths]
    again = next((path for i, path in enumerate(paths) if places[i] in places[:i]), None)
    if again is not None:
        raise UserError(f"{again} is given twice")
    ablations = [path for path in paths if (path / "ablation.json").is_file()]
    runs = [path for path in paths if path not in ablations]
    return (
        _named([_read(path) for path in runs], names.short_folders(runs), given),
        [load_ablation(path, name) for path, name in zip(ablations, names.short_folders(ablations), strict=True)],
    )


def load_ablation(path: Path, name: str = "") -> Ablation:
    """Reads an ablation's summary, and its cells' runs as far as they are there.

    Args:
        path: The folder.
        name: What it is called beside others; by default the folder's name.

    Raises:
        UserError: The summary is missing or damaged.
    """
    content = _read_json(path / "ablation.json")
    name = name or path.resolve().name
    try:
        return Ablation(
            path=path,
            # As the folder is named where none was given, and then its tables are called so once more.
            name=name.removeprefix("ablation-"),
            suite=str(content.get("suite", "geneval")),
            command=" ".join(["python -m evals.ablation", *content["command"]]),
            intervals=method_of(content),
            cells=tuple(_cell(path, row, name) for row in content["cells"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path / 'ablation.json'} is not written by evals.ablation: {error!r}") from None


def _cell(path: Path, row: dict[str, Any], ablation: str) -> Cell:
    flags = iter(row["flags"])
    settings = {str(flag).removeprefix("--"): str(value) for flag, value in zip(flags, flags, strict=False)}
    inside = str(row["run"]) not in {"", ".", ".."} and "/" not in str(row["run"])
    place = path / str(row["run"])
    run = load_run(place) if inside and (place / "scores.json").is_file() else None
    if run is not None:
        run = dataclasses.replace(run, name=f"{ablation}: {row['cell']}", label=str(row["cell"]))
    return Cell(name=str(row["cell"]), settings=settings, row=row, run=run)


def load_lines(path: Path) -> list[dict[str, Any]]:
    """The records of one of a run's logs (results, observations, chains), in the file's order."""
    if not path.exists():
        raise UserError(f"{path} is missing; run the benchmark with --output {path.parent} first")
    if HashedFolder(path.parent).is_hashed():
        return RunDirectory(path.parent).read(path)
    return [json_object(line, f"{path} line {number}", UserError) for number, line in numbered_lines(path, UserError)]


def _read_json(path: Path) -> dict[str, Any]:
    if path.parent.is_file():
        raise UserError(f"{path.parent} is a file; expected the --output of a finished run")
    if not path.exists():
        raise UserError(f"{path} is missing; is {path.parent} the --output of a finished run?")
    try:
        return HashedFolder(path.parent).read_json(path.name)
    except UserError as error:
        raise UserError(f"{error}; {MEND}") from error


def provenance(run: Run) -> dict[str, str]:
    """What a number rests on, for a footnote: detector, encoder, judge, commit, weights; "unknown" where unsaid."""
    identity, machine = run.spec.get("identity", {}), run.spec.get("machine", {})
    observe, generate = identity.get("observe", {}), identity.get("generate", {})
    commit = str(machine.get("commit") or "unknown")[:8]
    weights = observe.get("weights_sha256") or {}
    # A run whose identity has none was looked at by none.
    looked = observe.get("detector", "none") if observe else run.scores.get("detector")
    return {
        "detector": _with_hash(looked, weights, "detector/"),
        "encoder": "none" if run.judged_as else _with_hash(observe.get("embedder"), weights, "embedder/"),
        "judge": _judge_of(run.scores),
        "weights": digest(generate.get("weights_sha256") or {}) or ("none" if generate else "unknown"),
        "commit": commit + (" with local changes" if machine.get("dirty") else ""),
        "scorer": f"version {run.scores.get('version', 'unknown')}",
    }


def _judge_of(scores: dict[str, Any]) -> str:
    """Of a judged benchmark its own, of edits that of the overall block."""
    own, edits = scores.get("judge") or {}, scores.get("overall", {}).get("judge") or {}
    return str(own.get("name") or edits.get("judge") or "none")


def _with_hash(name: object, weights: dict[str, str], prefix: str) -> str:
    own = digest({key: value for key, value in weights.items() if key.startswith(prefix)})
    return f"{name or 'unknown'}{f' ({own})' if own else ''}"


def digest(hashes: dict[str, str]) -> str:
    """One short name for a set of weights: its file's SHA-256, or the SHA-256 of the sorted list of them.

    >>> digest({}), digest({"a.safetensors": "0123456789abcdef"}), len(digest({"a": "01", "b": "23"}))
    ('', '0123456789', 10)
    """
    if len(hashes) < 2:
        return "".join(str(value) for value in hashes.values())[:10]
    text = "".join(f"{value}  {name}\n" for name, value in sorted(hashes.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:10]
