"""Text that people bring: lines end at a line feed alone, and a file may begin with a byte order mark."""

import io
import json
import re
from pathlib import Path

import pytest

from evals import ablation, judge_agreement
from evals.editing import published
from evals.judges import protocols
from got.cli import inputs
from got.util import files
from got.util.errors import UserError
from reports import compare, speed

BOM = b"\xef\xbb\xbf"
ENDS = "\u2028\u2029\x85\x1c\x1d\x1e\x0b\x0c"
"""What `str.splitlines` takes for line ends, and JSON, TSV and people do not."""
ROOT = Path(__file__).resolve().parents[2]


def put(path, text):
    path.write_bytes(BOM + text.encode())
    return path


def test_a_grid(tmp_path):
    cells = ablation.read_grid(str(put(tmp_path / "grid.toml", "[cells]\na = '--steps 3'\nb = ''\n")))
    assert [cell.name for cell in cells] == ["a", "b"]


def test_ratings(tmp_path):
    path = put(tmp_path / "r.tsv", f"uid\tModel{ENDS}X\r\nitem{ENDS}1.jpg\t[1, 0.5]\r\n")
    ratings = judge_agreement.read_ratings(path, human=True)
    assert ratings.models == (f"Model{ENDS}X",)
    assert ratings.items == (f"item{ENDS}1",)


def test_instructions_of_reason_edit(tmp_path):
    put(tmp_path / "text.txt", f"remove{ENDS}it CLIP: dog\nmove it CLIP: cat\n\n")
    assert published._reason_edit_lines(tmp_path) == [(f"remove{ENDS}it", "dog"), ("move it", "cat")]


def test_a_judges_own_prompt(tmp_path):
    assert protocols._own(put(tmp_path / "own.txt", f"Judge {protocols.PLACE}")).startswith("Judge ")


def test_a_baseline_and_measured_speed(tmp_path):
    baseline = ROOT / "reports" / "baselines" / "geneval-mini-limit12.json"
    assert compare.of_baseline(put(tmp_path / "b.json", baseline.read_text())) == compare.of_baseline(baseline)
    measured = {
        "commit_info": {},
        "machine_info": {"cpu": {}, "machine": "x"},
        "datetime": "2025-01-01",
        "benchmarks": [{"name": "a", "stats": {"mean": 1, "stddev": 0}, "extra_info": {}}],
    }
    assert speed.load(put(tmp_path / "s.json", json.dumps(measured))).seconds == {"a": (1.0, 0.0)}


def test_json_of_a_model(tmp_path):
    assert files.read_object(put(tmp_path / "config.json", '{"a": 1}'), ValueError) == {"a": 1}


def test_prompts_to_draw(tmp_path, monkeypatch, capsys):
    lines = [{"prompt": f"a{ENDS}b", "index": 1, "tag": "t", "include": []}, {"prompt": "c", "seed": 3}]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    wanted = [{"prompt": f"a{ENDS}b"}, {"prompt": "c", "seed": 3}]
    path = put(tmp_path / "p.jsonl", text)
    assert inputs._read_prompts(str(path)) == wanted
    assert capsys.readouterr().err == f"note: {path}: keys that are not used: 'include', 'index', 'tag'\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("\ufeff" + text))
    assert inputs._read_prompts("-") == wanted
    with pytest.raises(UserError, match="expected chain, prompt, seed but got 'Prompts'"):
        inputs._read_prompts(str(put(tmp_path / "q.jsonl", '{"prompt": "a", "Prompts": "b"}')))


def test_no_file_is_cut_at_other_line_ends():
    """`str.splitlines` ends lines at eight characters that may stand in a text."""
    cut = re.compile(r"(read_text|\.read|decode)\([^()]*\)(\.\w+\([^()]*\))*\.splitlines\(")
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for package in ("got", "evals", "reports")
        for path in sorted((ROOT / package).rglob("*.py"))
        for match in cut.finditer(path.read_text())
    ]
    assert found == []
