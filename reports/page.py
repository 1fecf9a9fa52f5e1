"""The page: tables, figures and a browser of samples in one HTML file that opens from disk without a network."""

from __future__ import annotations

import dataclasses
import functools
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from evals.core.vocabulary import task_title
from evals.metrics.layout import PlannedObject
from reports import escape, formats
from reports.samples import STAGES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import jinja2

    from evals.core.records import Detection
    from reports.samples import SampleRecord
    from reports.tables import Table
    from reports.thumbnails import Album

WORDS = {
    "plan_wrong": "the chain's own boxes, taken as detections, fail the prompt",
    "drawing_wrong": "the plan is right, the image is not",
    "detector_doubt": "the plan is right, but even an exact drawing of it fails: the detector may be to blame",
    "unchecked": "the plan is right, and no exact drawing of it was looked at",
    "no_plan": "there is no chain to look into",
    "failed": "the sample has no image, or nothing could be said of it",
    "untraced": "a plan that was given, or of several steps; or an older run, which --from verdict traces",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A figure on the page."""

    name: str
    title: str
    text: str
    svg: str
    """Made by :func:`reports.style.inline`."""
    wide: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page with its own entry in the contents."""

    id: str
    title: str
    lead: str = ""
    tables: tuple[Table, ...] = ()
    figures: tuple[Shown, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A number at the top of the page."""

    title: str
    value: str
    note: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Browser:
    """Samples to look through."""

    title: str
    lead: str
    records: list[dict[str, Any]]
    """From :func:`record`."""
    runs: tuple[str, ...]
    """Names of the runs that the records count through."""
    studio: tuple[str, ...]
    """Of each run, the command that opens it in the studio."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """All that a page shows."""

    title: str
    lead: str
    facts: tuple[Fact, ...]
    sections: tuple[Section, ...]
    browser: Browser
    origins: tuple[tuple[str, dict[str, str], str], ...]
    """Of each run: its name, what its numbers rest on, and its run.json."""


def render(page: Page, sources: dict[str, str] | None) -> str:
    """The HTML of a page.

    Args:
        page: What it shows. All of its words are escaped.
        sources: File name of each thumbnail -> data URI; None if the thumbnails lie in ``pictures/`` beside the page.
    """
    from markupsafe import Markup

    browser = page.browser
    data = {"samples": browser.records, "runs": list(browser.runs),
            "studio": list(browser.studio), "pictures": sources or {}, "stages": STAGES,
            "words": WORDS}  # fmt: skip
    own = {name: Markup(_file(name)) for name in ("page.css", "page.js", "browser.js")}
    return _environment().get_template("page.html").render(
        page=page, data=Markup(escape.json_in_html(data)), own=own, number=formats.number, interval=formats.interval,
        markup=Markup,
    )  # fmt: skip


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FunctionLoader(_file),
        autoescape=True,
        finalize=escape.shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _file(name: str) -> str:
    return files("reports").joinpath("web", name).read_text(encoding="utf-8")


def record(
    samples: Sequence[SampleRecord], album: Album, run: int, outcome: str, labels: Sequence[str] = ()
) -> dict[str, Any]:
    """A sample for the browser: one view, or the same sample in two runs.

    Args:
        samples: The views.
        album: Takes their thumbnails in.
        run: Number of the run, in :attr:`Browser.runs`.
        outcome: What the browser filters by.
        labels: Titles of the views.
    """
    last = samples[-1]
    views = [_view(sample, album, label) for sample, label in zip(samples, labels or [""] * len(samples), strict=True)]
    stage = next((sample.stage for sample in reversed(samples) if sample.stage), "")
    return {"key": last.key, "task": task_title(last.task), "prompt": last.prompt, "outcome": outcome, "stage": stage,
            "run": run, "views": views}  # fmt: skip


def _view(sample: SampleRecord, album: Album, label: str) -> dict[str, Any]:
    return {
        "label": label,
        "file": album.add(sample.file),
        "size": [sample.width or 1, sample.height or 1],
        "outcome": sample.outcome,
        "stage": sample.stage or "",
        "reason": sample.reason,
        "chain": sample.chain,
        "planned": [_planned(item) for item in sample.planned],
        "seen": [_seen(item, sample) for item in sample.seen],
        "beside": [
            [name, album.add(file)]
            for name, file in (("source", sample.source), ("target", sample.target))
            if file is not None
        ],
    }


def _planned(item: PlannedObject) -> list[Any]:
    return [item.name or item.text[-40:], item.color or "", *item.box_1000]


def _seen(item: Detection, sample: SampleRecord) -> list[Any]:
    """Name, colour, box in thousandths of the image's sides, score."""
    sides = (sample.width, sample.height) * 2
    box = (round(1000 * value / max(side, 1)) for value, side in zip(item.box_xyxy_px, sides, strict=True))
    return [item.name, item.color or "", *box, round(item.score, 3)]
