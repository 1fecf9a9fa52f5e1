"""Joins the parts of a run that ``--shard`` made into what one process would have written, byte for byte.

    python -m evals.geneval --model got --output runs/mine --shard 1/4     # ... to 4/4, on any machines
    python -m evals.merge runs/mine                                        # all parts in runs/mine/parts
    python -m evals.merge a/1-of-2 b/2-of-2 --output runs/mine             # parts that were copied from elsewhere

The parts stay as they are. Times are those of the parts; everything else in the joined run is as if made at once.

Exit codes: 0 done, 1 nothing was scored, 2 a part is missing, unfinished, doubled or of another run, 130 interrupted.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.core.options import GENERATE, OBSERVE, VERDICT, flags_of, from_json
from evals.core.records import UserError
from evals.core.run_directory import PARTS, RunDirectory, differences, key_of
from evals.harness import cli, identity
from evals.harness.plan import SHARE, Plan
from evals.harness.run_spec import RunSpec, find_suite, in_share, reference_of
from evals.harness.runner import finish
from evals.harness.settings import Settings
from got.util.cli import Parser
from got.util.errors import warn
from got.util.files import replacing, sha256
from got.util.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evals.core.records import Sample
    from evals.core.run_directory import Key


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One share of a run."""

    directory: RunDirectory
    spec: dict[str, Any]
    """Its run.json."""
    identity: identity.Identity
    """Of the whole run: without what tells one part from another."""

    @property
    def shard(self) -> tuple[int, int]:
        which, count = self.spec["identity"][GENERATE]["shard"]
        return which, count

    @property
    def sizes(self) -> dict[str, int]:
        return {"shares": self.shard[1], "batch_size": self.spec["identity"][GENERATE]["batch_size"]}

    @classmethod
    def read(cls, path: Path) -> _Part:
        directory = RunDirectory(path, part=True)
        spec = directory.read_spec() if path.is_dir() else None
        shard = None if spec is None else spec["identity"].get(GENERATE, {}).get("shard")
        if spec is None or not (isinstance(shard, list) and [type(one) for one in shard] == [int, int]):
            raise UserError(f"{path} is no part of a run: expected a folder that --shard I/N has made")
        stages = spec["identity"]
        generate = {key: value for key, value in stages[GENERATE].items() if key not in SHARE}
        return cls(directory=directory, spec=spec, identity={**stages, GENERATE: generate})


def _parts_of(places: Sequence[Path]) -> list[Path]:
    """The parts that the command names, singly or by the run directory that holds them; each once."""
    found: dict[Path, Path] = {}
    for place in places:
        inside = place if place.name == PARTS else place / PARTS
        here = sorted(path for path in inside.iterdir() if path.is_dir()) if inside.is_dir() else [place]
        if not here:
            raise UserError(f"{inside} holds no part of a run yet; --shard makes each")
        found |= {path.resolve(): path for path in here if path.resolve() not in found}
    return list(found.values())


def check(parts: Sequence[_Part]) -> None:
    """Refuses parts that do not make one whole run.

    Raises:
        UserError: One is missing, doubled, unfinished or of another run; the message names it.
    """
    first = parts[0]
    for part in parts:
        if changed := differences({**first.identity, **first.sizes}, {**part.identity, **part.sizes}):
            raise UserError(f"{first.directory.path} and {part.directory.path} are of two runs ({'; '.join(changed)})")
    count = first.shard[1]
    places: dict[int, list[_Part]] = collections.defaultdict(list)
    for part in parts:
        places[part.shard[0]].append(part)
    doubled = next((some for some in places.values() if len(some) > 1), None)
    if doubled:
        names = " and ".join(str(part.directory.path) for part in doubled)
        raise UserError(f"share {doubled[0].shard[0]}/{count} is there twice: {names}")
    missing = [f"{which}/{count}" for which in range(1, count + 1) if which not in places]
    if missing:
        raise UserError(f"no part of {len(missing)} of {count} shares: {', '.join(missing)} (--shard makes each)")
    for part in parts:
        if part.directory.read_scores() is None:
            raise UserError(f"{part.directory.path} is not finished; the command that began it resumes it")


def merge(parts: Sequence[_Part], output: Path) -> dict[str, Any]:
    """Writes the whole run; returns its scores. What a killed merge has left is written again.

    Raises:
        UserError: The parts do not make one run, `output` is of another one, or an image is damaged.
    """
    with contextlib.ExitStack() as stack:
        for part in parts:
            stack.enter_context(part.directory.locked())
        check(parts)
        whole = RunDirectory(output)
        stack.enter_context(whole.locked())
        plan = _plan(parts[0], output)
        spec = whole.read_spec()
        if spec is not None:
            chosen = identity.other_cases(spec, plan.options)
            identity.check(None, spec["identity"], parts[0].identity, output, chosen)
        whole.scores.unlink(missing_ok=True)
        whole.write(whole.spec, _spec(parts, output))
        _join(parts, whole, plan)
        return finish(plan, whole)


def _plan(part: _Part, output: Path) -> Plan:
    """The plan of the whole run with only its verdicts to do, so that it needs nothing but what the parts hold."""
    generate = part.identity[GENERATE]
    suite = find_suite(generate["suite"])
    # run.json has the model's own steps, sampler and scales in place of what was not given; the identity has not.
    unset = {
        field.name: generate.get(field.name)
        for field, flag in flags_of(Settings)
        if flag.stage == GENERATE and field.default is None
    }
    resolved = {**part.spec["arguments"]["resolved"], **unset}
    settings = dataclasses.replace(from_json(Settings, resolved), shard=None, output=output, start=VERDICT)
    plan = Plan(RunSpec(suite=reference_of(suite), settings=settings, options=from_json(suite.options, resolved)))
    now = identity.of_run(plan, part.identity, (GENERATE, OBSERVE))
    identity.check(VERDICT, part.identity, now, part.directory.path)  # the same prompts, the same data
    return plan


def _spec(parts: Sequence[_Part], output: Path) -> dict[str, Any]:
    """run.json."""
    first = parts[0]
    arguments = first.spec["arguments"]
    resolved = {**arguments["resolved"], "shard": None, "output": str(output), "start": None}
    machines = [machine for part in parts for machine in (part.spec["machine"], *part.spec.get("resumed", ()))]
    kinds: list[dict[str, Any]] = []
    for machine in machines:
        if not any(differences({**kind, "started": None}, {**machine, "started": None}) == [] for kind in kinds):
            kinds.append(machine)
    for machine in kinds[1:]:
        changed = differences({**kinds[0], "started": None}, {**machine, "started": None})
        warn(f"not all parts were made alike ({'; '.join(changed)})")
    started = [machine["started"] for machine in machines if "started" in machine]
    return {
        "arguments": {**arguments, "resolved": resolved},
        "machine": {**kinds[0], **({"started": min(started)} if started else {})},
        "identity": first.identity,
        "redo": None,
        "made_with": identity.hashes(first.identity),
        **({"resumed": kinds[1:]} if kinds[1:] else {}),
    }


def _join(parts: Sequence[_Part], whole: RunDirectory, plan: Plan) -> None:
    """Images, then the logs that speak of them, in the order of the samples."""
    samples = {(sample.case.id, sample.index): sample for sample in plan.samples}
    order = {key: number for number, key in enumerate(samples)}
    size = parts[0].sizes["batch_size"]
    logs: dict[str, list[dict[str, Any]]] = {"chains": [], "observations": [], "failures": [], "times": []}
    with Progress("images", len(samples)) as bar:
        for part in parts:
            own = {key for key, number in order.items() if in_share(number, size, part.shard)}
            found = {name: _lines(part.directory, name, own) for name in logs}
            lost = own - {key_of(line) for name in ("observations", "failures") for line in found[name]}
            if lost:
                raise UserError(f"{part.directory.path} says nothing of {len(lost)} of its {len(own)} images")
            for line in found["chains"]:
                _take(samples[key_of(line)], line["sha256"], part.directory, whole)
            for name, lines in found.items():
                logs[name] += lines
            bar.advance(len(own), len(found["failures"]))
    if parts[0].directory.sources.exists():
        whole.replace(whole.sources, parts[0].directory.read(parts[0].directory.sources))
    for sample in plan.samples:
        if sample.index == 0:
            whole.write_metadata(sample.case)
    for name, lines in logs.items():
        whole.replace(getattr(whole, name), sorted(lines, key=lambda line: order[key_of(dict(line))]))


def _lines(directory: RunDirectory, name: str, own: set[Key]) -> list[dict[str, Any]]:
    return [line for line in directory.read(getattr(directory, name)) if key_of(line) in own]


def _take(sample: Sample, digest: str, part: RunDirectory, whole: RunDirectory) -> None:
    """Gives the whole run an image of a part: the same file under a second name, where the file system can do that."""
    name = whole.image_name(sample)
    image = part.path / name
    try:
        if sha256(image) != digest:
            raise UserError(f"{image}: damaged or changed since it was drawn; --from generate draws the part again")
    except OSError as error:
        raise UserError(f"{image}: {error.strerror}; a part is copied with its images") from error
    target = whole.path / name
    if target.exists() and target.samefile(image):  # renaming a second name to the first does nothing
        return
    with replacing(target) as temporary:
        temporary.unlink(missing_ok=True)  # what a killed merge has left is the part's own file
        try:
            os.link(image, temporary)
        except OSError:
            shutil.copyfile(image, temporary)


def _output(places: Sequence[Path], parts: Sequence[Path]) -> Path:
    """The run directory that holds all parts."""
    runs = {part.resolve().parent.parent for part in parts if part.resolve().parent.name == PARTS}
    if len(runs) != 1 or any(part.resolve().parent.name != PARTS for part in parts):
        raise UserError("--output is needed for parts that do not lie in one run directory")
    return places[0] if (places[0] / PARTS).is_dir() else runs.pop()


def _main(words: Sequence[str]) -> int:
    parser = Parser(prog="python -m evals.merge", description=__doc__)
    parser.add_argument(
        "places", nargs="+", type=Path, metavar="PART", help="a part; or a run directory, for all in it"
    )
    parser.add_argument("--output", type=Path, metavar="RUN", help="(default: the run directory that holds them)")
    given = parser.parse_args(words)
    parts = _parts_of(given.places)
    read = [_Part.read(path) for path in parts]
    output = given.output or _output(given.places, parts)
    scores = merge(read, output)
    return cli.show(find_suite(read[0].identity[GENERATE]["suite"]), scores, output)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m evals.merge`."""
    return cli.run_as("merge", functools.partial(_main, list(sys.argv[1:] if argv is None else argv)))


if __name__ == "__main__":
    raise SystemExit(main())
