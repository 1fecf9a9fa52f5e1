"""Runs and ablations -> a folder with a page, the tables in every format, the figures, and thumbnails.

Everything comes from the run directories. The same input gives the same files.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from typing import TYPE_CHECKING, Any

from evals.core.backends import ICON_WORLD
from evals.core.records import UserError
from got.util.files import FolderLock, clear_disk_errors, write_atomic
from got.util.garbage import paused
from got.util.tables import counted, escaped, span
from reports import (
    ablation_figures,
    editing,
    escape,
    formats,
    plain,
    run_figures,
    setting_figures,
    speed,
    style,
    tables,
)
from reports.frames import EDITING_SUITES, OWN_SUITES, provenance
from reports.page import Browser, Fact, Page, Section, Shown, record, render
from reports.samples import GRADED, NOT_JUDGED, load_samples
from reports.thumbnails import Album

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from reports.frames import Ablation, Run
    from reports.published import Rows
    from reports.run_figures import Drawn
    from reports.samples import SampleRecord
    from reports.speed import Benchmarks
    from reports.tables import Table

THUMBNAILS = ("auto", "inline", "beside")
INLINE_BYTES = 4_000_000
"""Thumbnails up to this size in all are put into the page by `auto`; more would make it slow to open."""
_CURVES = 9
"""More of them in one figure cannot be told apart."""
_WIDE_IN = style.COLUMN_IN * 1.3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A page and the files it goes with."""

    page: Page
    figures: tuple[tuple[str, bytes], ...]
    """Names and contents of the figures' files."""
    samples: tuple[tuple[str, tuple[SampleRecord, ...]], ...]
    """Names of runs with their images, for ``samples.csv``."""
    album: Album


# ------------------------------------------------------------------------------------------------------------- content
@paused()
def of_runs(
    runs: Sequence[Run],
    ablations: Sequence[Ablation],
    title: str,
    *,
    every: bool,
    benchmarks: Sequence[Benchmarks] = (),
    reported: Rows = None,
) -> Report:
    """The report on runs and ablations. Call it inside :func:`reports.style.sheet`.

    Args:
        runs: Finished runs of any suite.
        ablations: Finished ablations; their cells' images are shown as far as they are there.
        title: Above the page.
        every: Show right images in the browser, too.
        benchmarks: Files of measured speed, oldest first.
        reported: Which of the paper's rows to show.
    """
    cells = [cell.run for ablation in ablations for cell in ablation.cells if cell.run is not None]
    every_run = [*runs, *cells]
    images = {run.name: load_samples(run) for run in every_run}
    shown = _shown(images, every=every)
    with Album(picture for _, sample in shown for picture in sample.pictures) as album:
        sections, drawn = _content(runs, ablations, images, reported)
        sections, figures = saved(sections, drawn)  # while thumbnails are made
        if benchmarks:
            sections.append(Section(id="speed", title="Speed", tables=(speed.speed_table(benchmarks),)))
        page = Page(
            title=title,
            lead=_lead(runs, ablations)
            + _REPORTED * any(r.reported for s in sections for t in s.tables for r in t.rows),
            facts=tuple(_facts(runs, ablations)),
            sections=tuple(sections),
            browser=_browser(images, shown, {run.name: run.studio for run in every_run}, album, every=every),
            origins=tuple(map(origin, every_run)),
        )
    listed = tuple((name, tuple(samples)) for name, samples in images.items())
    return Report(page=page, figures=figures, samples=listed, album=album)


def _content(
    runs: Sequence[Run], ablations: Sequence[Ablation], images: dict[str, list[SampleRecord]], reported: Rows
) -> tuple[list[Section], list[tuple[str, Drawn]]]:
    """The sections, without figures; and sections' ids with their figures."""
    names: set[str] = set()
    geneval = [run for run in runs if run.scores.get("suite") == "geneval"]
    published = [run for run in runs if run.scores.get("suite") in EDITING_SUITES]
    measured = [
        run for run in runs if run.scores.get("suite") in (*EDITING_SUITES, *OWN_SUITES) and editing.is_measured(run)
    ]
    known_runs = [*geneval, *published, *measured]
    others = [run for run in runs if run not in known_runs and not plain.is_plain(run)]
    if others:
        known = ", ".join(("geneval", *EDITING_SUITES, *OWN_SUITES))
        raise UserError(f"{others[0].path} is a run of suite {others[0].scores.get('suite')!r}; known: {known}")
    sections: list[Section] = []
    drawn: list[tuple[str, Drawn]] = []
    taken = {"geneval"}
    if geneval:
        sections.append(Section(id="geneval", title="GenEval", tables=(tables.geneval_table(geneval, reported),)))
        drawn += [("geneval", figure) for figure in _figures_of_runs(geneval, images, names)]
    for suite in dict.fromkeys(str(run.scores["suite"]) for run in runs if run not in known_runs):
        own = [run for run in runs if run.scores["suite"] == suite]
        name = escape.file_name(suite, names)
        kinds = [[run for run in own if run.judged_as == one] for one in dict.fromkeys(run.judged_as for run in own)]
        made = [plain.table_of(one, reported) for one in kinds]
        apart = tuple(dataclasses.replace(one, name=escape.file_name(one.name, taken)) for one in made)
        sections.append(Section(id=name, title=plain.title_of(own[0]), tables=apart))
        unjudged = [run for run in own if not run.judged_as]
        drawn += [(name, figure) for figure in (_figures_of_runs(unjudged, images, names) if unjudged else [])]
    edits = [run for run in runs if run in published or run in measured]
    edit_tables = [editing.measured_table(measured)] if measured else []
    for suite in dict.fromkeys(str(run.scores["suite"]) for run in edits):
        own = [run for run in edits if run.scores["suite"] == suite]
        edit_tables.append(editing.metrics_table(own, escape.file_name(f"{suite} metrics", names)))
    if edits:
        paper = editing.editing_table(published, reported)
        edit_tables += [paper] if paper is not None else []
        sections.append(Section(id="editing", title="Editing", tables=tuple(edit_tables)))
        for run in measured:
            drawn += [("editing", figure) for figure in _named([editing.by_category(run)], run.name, names)]
    for ablation in ablations:
        section, figures = _ablation(ablation, images, names, reported)
        sections.append(section)
        drawn += [(section.id, figure) for figure in figures]
    return sections, drawn


def origin(run: Run) -> tuple[str, dict[str, str], str]:
    """Where a run's numbers come from, for the page: its name, its folder and what it was made with, its run.json."""
    return run.name, {"folder": run.path.name, **provenance(run)}, json.dumps(run.spec, indent=1)


_REPORTED = " Rows marked † are reported by others, not measured here."


def _lead(runs: Sequence[Run], ablations: Sequence[Ablation]) -> str:
    if not runs and not ablations:
        return "How fast the parts are, each measured against another way in the same run."
    every = [*runs, *(cell.run for ablation in ablations for cell in ablation.cells if cell.run is not None)]
    worlds = " and ".join(dict.fromkeys(str(run.scores.get("world")) for run in every)) or "unknown images"
    worlds = worlds.replace(ICON_WORLD, f"the {ICON_WORLD}")
    parts = [counted(len(runs), "runs")] * bool(runs)
    parts += [counted(len(ablations), "ablations")] * bool(ablations)
    return f"{' and '.join(parts)}, measured on {worlds}."


def _facts(runs: Sequence[Run], ablations: Sequence[Ablation]) -> list[Fact]:
    facts = []
    for run in runs:
        if run.scores.get("suite") == "geneval":
            what, score = "GenEval overall", run.scores["overall"]["score"]
        elif run.scores.get("suite") in (*EDITING_SUITES, *OWN_SUITES) and editing.is_measured(run):
            what = f"{run.scores['title']}, edits done and rests untouched"
            score = run.scores["overall"]["measured"]["shares"]["both"]
        else:
            continue
        if score["value"] is not None:
            ends = "" if score["low"] is None else f"{span(score['low'], score['high'])}, "
            note = f"{what}, {run.images}, {ends}{counted(score['n'], 'images')}"
            facts.append(Fact(title=run.label, value=f"{score['value']:.3f}", note=note))
    for ablation in ablations:
        verdicts = [(cell.row["difference"] or {}).get("verdict") for cell in ablation.cells[1:]]
        worse, better = verdicts.count("worse"), verdicts.count("better")
        value = f"{worse} worse" + (f", {better} better" if better else "")
        variants = counted(len(verdicts), "variants")
        note = f"of {variants}, against “{ablation.cells[0].name}”; the rest is not distinguishable"
        if ablation.too_few:
            value, note = "cannot tell", ablation.too_few
        facts.append(Fact(title=f"ablation {ablation.name}", value=value, note=note))
    return facts


def _figures_of_runs(runs: Sequence[Run], images: dict[str, list[SampleRecord]], names: set[str]) -> list[Drawn]:
    found: list[Drawn | None] = [run_figures.score_by_atoms(runs) or run_figures.score_by_task(runs)]
    for run in runs:
        samples, mark = images[run.name], f": {run.label}"
        by_task: dict[str, list[SampleRecord]] = {}
        for sample in samples:
            by_task.setdefault(sample.task, []).append(sample)
        found += [
            run_figures.failure_split(by_task, "failures", f"Where wrong images went wrong{mark}"),
            run_figures.layout_fit(by_task, "layout", f"Drawings keep to their plans{mark}"),
            run_figures.color_confusion(samples, "colours", f"Colours taken for others{mark}"),
            run_figures.class_confusion(samples, "classes", f"Objects not found, or taken for others{mark}"),
        ]
    return _named(found, runs[0].name if len(runs) == 1 else "", names)


def _named(found: Sequence[Drawn | None], prefix: str, names: set[str]) -> list[Drawn]:
    """Figures that there are, each with a file name of its own."""
    return [
        dataclasses.replace(figure, name=escape.file_name(f"{prefix} {figure.name}", names))
        for figure in found
        if figure is not None
    ]


def _ablation(
    ablation: Ablation, images: dict[str, list[SampleRecord]], names: set[str], reported: Rows
) -> tuple[Section, list[Drawn]]:
    short, settings = setting_figures.labels(ablation)
    cells = {short[cell.name]: images[cell.run.name] for cell in ablation.cells if cell.run is not None}
    few = len(cells) <= _CURVES
    figures = [
        ablation_figures.ladder(ablation),
        setting_figures.over_settings(ablation),
        setting_figures.against_time(ablation),
        run_figures.failure_split(cells, "failures", f"{ablation.name}: where wrong images went wrong{settings}"),
        run_figures.layout_fit(cells, "layout", f"{ablation.name}: drawings keep to their plans{settings}")
        if few
        else None,
        ablation_figures.image_grid(cells, "pictures", f"{ablation.name}: the same prompts in each variant{settings}"),
    ]
    name = escape.file_name(f"ablation {ablation.name}", names)
    made = tables.ablation_table(ablation, name, reported)
    section = Section(id=name, title=f"Ablation {ablation.name}", tables=(made,))
    return section, _named(figures, ablation.name, names)


def _shown(images: dict[str, list[SampleRecord]], *, every: bool) -> list[tuple[int, SampleRecord]]:
    """The samples of the browser in its order, each with the number of its run."""
    shown = [
        (number, sample)
        for number, samples in enumerate(images.values())
        for sample in samples
        if every or sample.outcome != "right"
    ]
    if any(sample.outcome in (NOT_JUDGED, GRADED) for _, sample in shown):
        shown.sort(key=_least_liked)
    return shown


def _browser(
    images: dict[str, list[SampleRecord]],
    shown: list[tuple[int, SampleRecord]],
    studio: dict[str, str],
    album: Album,
    *,
    every: bool,
) -> Browser:
    unjudged = [sample for _, sample in shown if sample.outcome in (NOT_JUDGED, GRADED)]
    total = sum(len(samples) for samples in images.values())
    lead = "Every sample" if every else _what_is_shown(len(unjudged), len(shown) - len(unjudged), total)
    how = ", with planned and detected boxes, the reason, and the stage that failed. Open one for its chain."
    if any(sample.judge_score is not None for sample in unjudged):
        lead += ", those that the judge likes least first"
    return Browser(
        title="Samples" if every or unjudged else "Failures",
        lead=f"{lead}{how if shown else '.'}",
        records=[record([sample], album, number, sample.outcome) for number, sample in shown],
        runs=tuple(images),
        studio=tuple(studio[name] for name in images),
    )


def _what_is_shown(unjudged: int, faulty: int, total: int) -> str:
    """The browser's lead: where nothing tells right from wrong, nothing is called wrong.

    >>> _what_is_shown(0, 2, 9)
    'The 2 of 9 samples that are wrong or missing'
    >>> _what_is_shown(8, 1, 9)
    '8 of 9 samples of which nothing tells right from wrong here and 1 that is wrong or missing'
    >>> _what_is_shown(0, 0, 9)
    'None of 9 samples is wrong or missing'
    >>> _what_is_shown(9, 0, 9)
    '9 of 9 samples of which nothing tells right from wrong here'
    """
    verb = "is" if faulty == 1 else "are"
    if not unjudged and not faulty:
        return f"None of {total:,} samples is wrong or missing"
    if not unjudged:
        return f"The {faulty:,} of {total:,} samples that {verb} wrong or missing"
    said = f"{unjudged:,} of {total:,} samples of which nothing tells right from wrong here"
    return f"{said} and {faulty:,} that {verb} wrong or missing" if faulty else said


def _least_liked(shown: tuple[int, SampleRecord]) -> tuple[int, bool, float]:
    """Run by run: what was judged as it stands, then the rest by the judge's score, where there is one."""
    number, sample = shown
    score = sample.judge_score if sample.outcome in (NOT_JUDGED, GRADED) else 0.0
    return number, score is None, score or 0.0


# --------------------------------------------------------------------------------------------------------------- files
@paused()
def write(report: Report, output: Path, thumbnails: str) -> dict[str, Any]:
    """Writes the folder.

    Args:
        report: What to write.
        output: The folder; a new one, an empty one, or that of an earlier report, which is replaced.
        thumbnails: One of :data:`THUMBNAILS`.

    Raises:
        UserError: The folder holds something else.
    """
    check(output)
    with clear_disk_errors(output):
        output.mkdir(parents=True, exist_ok=True)
    with FolderLock(output, LOCK):
        try:
            return _write(report, output, thumbnails)
        finally:
            (output / LOCK).unlink(missing_ok=True)


def _write(report: Report, output: Path, thumbnails: str) -> dict[str, Any]:
    inline = thumbnails == "inline" or (thumbnails == "auto" and report.album.size <= INLINE_BYTES)
    _clear(output, kept=() if inline else report.album.files)
    page = report.page
    for name, content in report.figures:
        write_atomic(output / "figures" / name, content)
    every = [table for section in page.sections for table in section.tables]
    for table in every:
        for suffix, form in (("csv", formats.to_csv), ("tex", formats.to_latex), ("md", formats.to_markdown)):
            write_atomic(output / "tables" / f"{table.name}.{suffix}", form(table))
    write_atomic(output / "report.md", markdown(page))
    write_atomic(output / "report.tex", _latex(every))
    write_atomic(output / "samples.csv", _samples_csv(report.samples))
    if not inline:
        report.album.write(output / "pictures")
    html = render(page, report.album.inline() if inline else None)
    write_atomic(output / "report.html", html)  # the last one: its presence marks a whole report
    (output / _UNFINISHED).unlink()
    figures = sum(len(section.figures) for section in page.sections)
    return {"output": str(output / "report.html"), "tables": len(every), "figures": figures,
            "samples": len(page.browser.records), "pictures": len(report.album.files),
            "pictures_in_page": inline}  # fmt: skip


_OURS = {"figures": {".svg", ".pdf", ".png", ".csv"}, "tables": {".csv", ".tex", ".md"}, "pictures": {".jpg", ".webp"}}


_UNFINISHED = ".report-unfinished"
LOCK = ".lock"
"""Of a report that is being written."""
"""Marks a folder of ours in which no page is yet, or none any more."""


def check(output: Path) -> None:
    """Whether a report may be written there. Changes nothing.

    Raises:
        UserError: The folder has files but no report, or is a file.
    """
    if output.exists() and not output.is_dir():
        raise UserError(f"cannot write --output {output}: it is a file")
    ours = any((output / name).is_file() for name in ("report.html", _UNFINISHED))
    if output.is_dir() and {path.name for path in output.iterdir()} - {LOCK} and not ours:
        raise UserError(f"{output} has files but no report.html; choose another --output")


def _clear(output: Path, kept: Collection[str]) -> None:
    """Clears away an earlier report, its page first, and nothing else.

    Args:
        output: Its folder.
        kept: Names of thumbnails that the new report has, too: a name stands for a content.

    Raises:
        UserError: The folder cannot be written.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / _UNFINISHED).touch()
        (output / "report.html").unlink(missing_ok=True)
        for folder, suffixes in _OURS.items():
            for path in (output / folder).glob("*"):
                if path.suffix in suffixes and path.name not in kept:
                    path.unlink()
    except OSError as error:
        raise UserError(f"cannot write --output {output}: {error.strerror}") from error


def saved(
    sections: Sequence[Section], drawn: Sequence[tuple[str, Drawn]]
) -> tuple[list[Section], tuple[tuple[str, bytes], ...]]:
    """The sections with their figures, and the names and contents of the figures' files.

    Args:
        sections: Without figures.
        drawn: Sections' ids with their figures.
    """
    shown: dict[str, list[Shown]] = {}
    files: list[tuple[str, bytes]] = []
    for section, one in drawn:
        made = style.files_of(one.figure)
        files += [(f"{one.name}.{suffix}", content) for suffix, content in made.items()]
        files.append((f"{one.name}.csv", csv_of(one.header, one.rows).encode()))
        wide = bool(one.figure.get_figwidth() > _WIDE_IN)
        svg = style.inline(made["svg"].decode(), one.name)
        shown.setdefault(section, []).append(Shown(name=one.name, title=one.title, text=one.text, svg=svg, wide=wide))
    return [dataclasses.replace(s, figures=tuple(shown.get(s.id, ()))) for s in sections], tuple(files)


def csv_of(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    r"""Rows as CSV; words are made harmless.

    >>> csv_of(["a", "b"], [["=1", 2.5]])
    "a,b\n'=1,2.5\n"
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    for row in (header, *rows):
        writer.writerow([escape.csv_text(cell) if isinstance(cell, str) else cell for cell in row])
    return file.getvalue()


def _samples_csv(images: Sequence[tuple[str, Sequence[SampleRecord]]]) -> str:
    header = ("run", "case", "index", "task", "outcome", "failed_at", "prompt", "reason", "chain")
    rows = [
        (name, p.case, p.index, p.task, p.outcome, p.stage or "", p.prompt, p.reason, p.chain)
        for name, samples in images
        for p in samples
    ]
    return csv_of(header, rows)


def markdown(page: Page) -> str:
    """The page as Markdown: its tables, and its figures as links to PNG files."""
    parts = [f"# {escaped(page.title)}", escaped(page.lead)]
    for section in page.sections:
        parts.append(f"## {escaped(section.title)}")
        for table in section.tables:
            parts += [f"**{escaped(table.caption)}**", formats.to_markdown(table).rstrip()]
        for figure in section.figures:
            parts.append(f"![{escaped(f'{figure.title}. {figure.text}')}](figures/{figure.name}.png)")
    counts: dict[str, int] = {}
    for each in page.browser.records:
        counts[each["stage"] or each["outcome"]] = counts.get(each["stage"] or each["outcome"], 0) + 1
    said = ", ".join(f"{name.replace('_', ' ')}: {count:,}" for name, count in counts.items())
    parts += [f"## {escaped(page.browser.title)}", escaped(page.browser.lead)]
    parts += [escaped(said)] if said else []
    return "\n\n".join(parts) + "\n"


def _latex(every: Sequence[Table]) -> str:
    head = "% Tables for a paper: \\input this file or one of those in tables/; above each stands what it needs.\n"
    return head + "\n".join(formats.to_latex(table) for table in every)
