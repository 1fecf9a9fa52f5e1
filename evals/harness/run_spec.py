"""A run as data: which suite, settings, options and cases. All else follows from it, in any process."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from evals.core import options as flags
from evals.core.backends import ICON_WORLD, PHOTOGRAPHS, entry_points, load
from evals.core.records import UserError
from evals.detectors.registry import DETECTORS, in_icon_world
from evals.embedders.registry import ICON_EMBEDDER, PHOTO_EMBEDDER
from evals.generators import registry as generators
from evals.harness.settings import Settings
from evals.suite import Suite
from got.util.errors import first_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from evals.core.records import Case


SUITES = {
    "geneval": "evals.geneval.suite:GenEval",
    "geneval2": "evals.geneval2.suite:GenEval2",
    "emu_edit": "evals.emu_edit:EmuEdit",
    "imagenhub": "evals.imagenhub:ImagenHub",
    "reason_edit": "evals.reason_edit:ReasonEdit",
    "multi_turn": "evals.multi_turn:MultiTurn",
    "interactive": "evals.interactive:Interactive",
    "wise": "evals.wise:Wise",
    "genevalpp": "evals.genevalpp:GenEvalPlusPlus",
    "imgedit": "evals.imgedit:ImgEdit",
    "gedit": "evals.gedit:GEdit",
    "rise": "evals.rise:Rise",
    "kris": "evals.kris:Kris",
    "t2i_reasonbench": "evals.t2i_reasonbench:T2IReasonBench",
}
"""The suites of this package; others are announced by entry points of the group `GROUP`."""
GROUP = "got_evals.suites"


def suite_names() -> list[str]:
    """All suites by name, this package's first."""
    return [*SUITES, *(name for name in entry_points(GROUP) if name not in SUITES)]


def find_suite(name: str) -> Suite[Any]:
    """A suite by name, or by reference as ``package.module:Class``.

    Raises:
        UserError: There is none.
    """
    reference = SUITES.get(name, name)
    if ":" not in reference:
        points = entry_points(GROUP)
        if name not in points:
            raise UserError(f"there is no suite {name}; installed are {', '.join(suite_names())}")
        reference = points[name].value
    try:
        suite = load(reference)
    except Exception as error:  # of somebody else's package
        raise UserError(f"the suite {reference} cannot be imported: {first_line(error)}") from error
    if not (isinstance(suite, type) and issubclass(suite, Suite)):
        raise UserError(f"{reference} is no evals.suite.Suite")
    made: Suite[Any] = suite()
    return made


def reference_of(suite: Suite[Any]) -> str:
    """Where any process finds a suite's class."""
    kind = type(suite)
    return f"{kind.__module__}:{kind.__qualname__}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSpec:
    """A run, resolved. Frozen, picklable, JSON in and out."""

    suite: str
    """``package.module:Class``."""
    settings: Settings
    options: Any
    """The suite's own, of its class `Suite.options`."""
    words: tuple[str, ...] = ()
    """The command line, after that of the run which it goes on with, if it does."""
    given: frozenset[str] = frozenset()
    """Fields of settings and options that it names."""

    def as_json(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "suite": self.suite,
            "settings": flags.as_json(self.settings),
            "options": flags.as_json(self.options),
            "words": list(self.words),
            "given": sorted(self.given),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RunSpec:
        """The inverse of `as_json`."""
        return cls(
            suite=content["suite"],
            settings=flags.from_json(Settings, content["settings"]),
            options=flags.from_json(find_suite(content["suite"]).options, content["options"]),
            words=tuple(content["words"]),
            given=frozenset(content["given"]),
        )


def resolve(
    suite: Suite[Any], settings: Settings, options: Any, words: Sequence[str] = (), given: Iterable[str] = ()
) -> RunSpec:
    """The run that settings and options ask for, with defaults that depend on others filled in.

    Raises:
        UserError: Some of them do not go together.
    """
    world = world_of(suite, settings, options)
    options = suite.resolve(options, world)
    if settings.embedder == "auto":
        settings = dataclasses.replace(settings, embedder=_companion(settings.detector, world))
    return RunSpec(
        suite=reference_of(suite), settings=settings, options=options, words=tuple(words), given=frozenset(given)
    )


def world_of(suite: Suite[Any], settings: Settings, options: Any) -> str:
    """``"icon world"`` or ``"photographs"``: what a run's images show."""
    model, _ = generators.parse_model(settings.model)
    if suite.detects(options):
        icons = in_icon_world(settings.detector)
    else:
        icons = generators.draws_icons(model, settings.checkpoint)
    return suite.shows(options) or (ICON_WORLD if icons else PHOTOGRAPHS)


def _companion(detector: str, world: str) -> str:
    """The embedder that goes with a detector, or else with a world."""
    kind = detector.partition(":")[0]
    own = DETECTORS[kind].embedder if kind in DETECTORS else None
    return own if own and world == DETECTORS[kind].world else ICON_EMBEDDER if world == ICON_WORLD else PHOTO_EMBEDDER


# -------------------------------------------------------------------------------------------------------- which samples
def in_share(number: int, batch_size: int, shard: tuple[int, int]) -> bool:
    """Whether a sample is in a share: whole batches in turn, drawn beside the same others as in one process.

    >>> [number for number in range(10) if in_share(number, 2, (1, 3))]
    [0, 1, 6, 7]
    """
    return number // batch_size % shard[1] == shard[0] - 1


def of_tasks(cases: Sequence[Case], tasks: Sequence[str]) -> list[Case]:
    """The cases of some tasks, which keep their ids; of all where none is named.

    Raises:
        UserError: There is no such task.

    >>> from evals.core.records import Case
    >>> cases = [Case(id=str(i), prompt="", tag="ab"[i > 3], metadata={}) for i in range(6)]
    >>> [case.id for case in of_tasks(cases, ["b"])]
    ['4', '5']
    """
    known = dict.fromkeys(case.tag for case in cases)
    unknown = [name for name in tasks if name not in known]
    if unknown:
        # A name with a comma is quoted: it is one name, and only a JSON list can give it.
        said, tasks_are = (", ".join(json.dumps(x) if "," in x else x for x in some) for some in (unknown, known))
        raise UserError(f"--tasks: {said} is no task here; the tasks are {tasks_are}")
    return [case for case in cases if not tasks or case.tag in tasks]


def spread(cases: Sequence[Case], limit: int | None) -> list[Case]:
    """`limit` cases, shared evenly by the tasks and evenly spaced inside each; order kept. None keeps all.

    >>> from evals.core.records import Case
    >>> cases = [Case(id=str(i), prompt="", tag="ab"[i > 3], metadata={}) for i in range(10)]
    >>> [case.id for case in spread(cases, 4)]
    ['0', '2', '4', '7']
    """
    if limit is None or limit >= len(cases):
        return list(cases)
    tasks: dict[str, list[Case]] = {}
    for case in cases:
        tasks.setdefault(case.tag, []).append(case)
    quotas = dict.fromkeys(tasks, 0)
    while (left := limit - sum(quotas.values())) > 0:
        for tag in [tag for tag in tasks if quotas[tag] < len(tasks[tag])][:left]:
            quotas[tag] += 1
    kept = {members[i * len(members) // quotas[tag]].id for tag, members in tasks.items() for i in range(quotas[tag])}
    return [case for case in cases if case.id in kept]
