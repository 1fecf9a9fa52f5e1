"""Tables of a paper, compiled by a real LaTeX with nothing but the packages that they name. Skipped without one."""

import re
import shutil
import subprocess

import pytest
from report_kit import BOTH, CHAIN, HOSTILE, write_run

from reports import formats, tables
from reports.frames import load
from reports.tables import Cell, Column, Row, Table

needs_latex = pytest.mark.skipif(shutil.which("latexmk") is None, reason="no latexmk (texlive-latex-recommended)")


def compiled(folder, *made):
    """The log of a paper that has these tables."""
    packages = sorted({name for text in made for name in re.findall(r"\\usepackage\S*?\{\w+\}", text.splitlines()[0])})
    body = "\n".join(made)
    paper = rf"""\documentclass[twocolumn]{{article}}
{chr(10).join(packages)}
\begin{{document}}
{body}
\end{{document}}
"""
    (folder / "paper.tex").write_text(paper, encoding="utf-8")
    words = ["latexmk", "-pdf", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    return (folder / "paper.log").read_text(errors="replace")


@needs_latex
def test_tables_compile_with_the_packages_they_name(tmp_path):
    runs, _ = load([write_run(tmp_path / "a"), write_run(tmp_path / "b" / "b", [(CHAIN, BOTH, None)] * 2)])
    log = compiled(tmp_path, formats.to_latex(tables.geneval_table(runs)))
    assert "Float too large" not in log
    assert not re.search(r"Overfull \\hbox \((\d{2,})", log), "no table is wider than the page"


@needs_latex
def test_ten_columns_with_intervals_fit_on_a_page(tmp_path):
    cell = Cell(value=0.5, low=0.25, high=0.75)
    said = Cell(text="not distinguishable (18 cases)", brief="not distinguishable")
    columns = [
        Column(key=str(i), title=title) for i, title in enumerate(("overall", "color attribution", *["position"] * 5))
    ]
    change = (Column(key="d", title="difference", signed=True), Column(key="p", title="p (Holm)"))
    row = Row(label="no semantic guidance", images="icon world", cells=(*[cell] * 8, Cell(value=0.001), said))
    columns = (*columns, *change, Column(key="v", title="verdict", best=None))
    text = formats.to_latex(Table(name="t", caption="Ten columns.", columns=columns, rows=(row, row)))
    assert r"{\tiny 0.250--0.750}" in text
    assert r"{\tiny $+0.250$ to $+0.750$}" in text
    assert "Overfull" not in compiled(tmp_path, text)


def test_an_interval_beside_its_score_stands_in_brackets():
    row = Row(label="got", images="icon world", cells=(Cell(value=0.5, low=0.25, high=0.75),))
    text = formats.to_latex(Table(name="t", caption="One.", columns=(Column(key="s", title="score"),), rows=(row,)))
    assert r"got & 0.500 {\tiny (0.250--0.750)} \\" in text


@needs_latex
def test_hostile_words_compile_too(tmp_path):
    said = Cell(value=0.2, low=-0.1, high=0.3, text="not distinguishable (5 cases)", brief="not % distinguishable & _")
    table = Table(
        name="t",
        caption=HOSTILE,
        columns=(Column(key="a", title="100 % $ # _ {} ~ ^", signed=True), Column(key="b", title="b", best=None)),
        rows=(Row(label="a_b & 50 % ^ ~ \\input{x}", images="icon world", cells=(Cell(value=-0.5, mark="‡§"), said)),),
        notes=(HOSTILE, "± × – “quoted” § † ‡ ↑ ↓"),
        origins=(HOSTILE,),
    )
    assert "/Undefined control" not in compiled(tmp_path, formats.to_latex(table))


def test_every_table_says_what_it_needs_and_where_it_comes_from(tmp_path):
    (run,), _ = load([write_run(tmp_path / "a")])
    lines = formats.to_latex(tables.geneval_table([run], ())).splitlines()
    assert lines[0] == r"% Needs \usepackage[T1]{fontenc}, \usepackage{textcomp}, \usepackage{booktabs}."
    assert lines[1] == "% Folders: got is a."
    assert "SDXL" not in "\n".join(lines)
    assert "weights" not in "\n".join(line for line in lines if not line.startswith("%")), "hashes are for the comment"
