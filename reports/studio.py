"""A run's samples for the studio (`python -m got studio --run`): the entry point ``run`` of its group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evals.core.records import UserError
from evals.core.run_directory import RunDirectory, key_of
from evals.core.vocabulary import task_title
from got.util.files import read_lines
from reports.frames import load_run
from reports.samples import find_sample, load_samples

if TYPE_CHECKING:
    from pathlib import Path

_SETTINGS = ("scheduler", "semantic_scale", "spatial_scale", "reference_scale", "guidance_interval", "own_size")
"""Of a run, called as the pipeline's arguments are."""


class StudioRun:
    """The samples of a finished run, with all that it takes to draw them again.

    Raises:
        UserError: The folder is no run directory, or the run is not finished.
    """

    def __init__(self, folder: Path) -> None:
        run = load_run(folder)
        self.name, self._got = str(folder), run.model == "got"
        self._samples = {one.key: one for one in load_samples(run)}
        self._chains = {"{}/{}".format(*key_of(line)): line for line in read_lines(RunDirectory(folder).chains)[0]}
        settings = run.spec.get("arguments", {}).get("resolved", {})
        given = {name: settings.get(name) for name in _SETTINGS} | {"num_inference_steps": settings.get("steps")}
        off = {name: False for name in ("semantic", "spatial", "reference") if settings.get(name) == "off"}
        self._options = {name: value for name, value in given.items() if value is not None and value is not False} | off

    def samples(self) -> list[dict[str, Any]]:
        """Those that have an image, the wrong ones first."""
        there = sorted((one for one in self._samples.values() if one.file), key=lambda one: one.outcome != "wrong")
        said = ("key", "prompt", "outcome", "reason")
        return [{"task": task_title(one.task)} | {name: getattr(one, name) for name in said} for one in there]

    def sample(self, key: str) -> dict[str, Any]:
        """One sample; `UserError` where there is none, or it has no image."""
        one = find_sample(self._samples.values(), key, self.name)
        if one.file is None:
            raise UserError(f"{self.name} has no image for sample {one.key}")
        line = self._chains.get(one.key, {})
        return {
            "image": one.file,
            "source": one.source,
            "prompt": one.prompt,
            "chain": line.get("chain") if self._got else None,
            "seed": int(line.get("seed", 0)),
            "options": self._options,
        }
