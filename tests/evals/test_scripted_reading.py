"""Replies that official scripts read and the strict readers do not, or read as another grade; and editions for both."""

import re

import judged_kit as kit
import pytest
from judge_kit import serve

from evals.core.records import Case
from evals.harness.run_spec import find_suite
from evals.judged.wording import our_own
from got.vlm.json_replies import BadReply
from reports import __main__ as reports

GRADES = ("Consistency", "Realism", "Aesthetic Quality")
QUESTIONS = {"q1": "", "c1": "", "q2": "", "c2": ""}
RISE_FACTS = {"reference_txt": False, "reference_img": False, "reasoning_img": False, "without_question": False}


def readers(name, call, task="", subtask="", facts=None, **options):
    """How a suite reads the reply to one of its calls, strictly and as its script does."""
    suite = find_suite(name)
    case = Case(id="x", prompt="", tag=task, metadata={"subtask": subtask, "facts": facts or {}, "texts": {}})
    found = []
    for reading in ("strict", "scripted"):
        given = suite.options(reading=reading, **options)
        calls = suite.ask(case, our_own(suite.ours(given)).texts, given)
        found.append(next(one.read for one in calls if one.name == call))
    return found


def kris(call, category="count_change"):
    return readers("kris", call, subtask=category, facts={"images": 2, "frame": 2})


SUITES = {
    "wise": lambda: readers("wise", "image", edition="legacy"),
    "wise, verified": lambda: readers("wise", "image"),
    "imgedit": lambda: readers("imgedit", "edit", task="add"),
    "imgedit, uge": lambda: readers("imgedit", "edit", task="uge", edition="uge"),
    "rise": lambda: readers("rise", "reasoning", task="temporal", facts=RISE_FACTS),
    "rise, logical": lambda: readers("rise", "reasoning", task="logical", facts={**RISE_FACTS, "reference_txt": True}),
    "kris": lambda: kris("quality"),
    "kris, knowledge": lambda: kris("quality", "biology"),
    "kris, two grades": lambda: kris("instruction", "biology"),
    "kris, frames": lambda: kris("instruction", "temporal_prediction"),
    "t2i_reasonbench": lambda: readers(
        "t2i_reasonbench", "reason_evaluation", facts={"groups": {"reason_evaluation": QUESTIONS}}
    ),
}


def lines(*grades):
    return "\n".join(f"{name}: {grade}" for name, grade in zip(GRADES, grades, strict=True))


@pytest.mark.parametrize(
    ("suite", "text", "strict", "scripted"),
    [
        # WISE: of repeated labels the last; any digit; no bold colons, but three lone digits.
        ("wise", lines(2, 1, 0), [2, 1, 0], [2, 1, 0]),
        ("wise", f"Consistency: 0, no:\n{lines(2, 1, 0)}", [2, 1, 0], [2, 1, 0]),
        ("wise", f"{lines(0, 0, 0)}\n\n{lines(2, 1, 0)}", None, [2, 1, 0]),
        ("wise", lines(9, 1, 0), None, [9, 1, 0]),
        ("wise", "2\n1\n0", None, [2, 1, 0]),
        ("wise", "**Consistency:** 2\n**Realism:** 1\n**Aesthetic Quality:** 0", [2, 1, 0], [2, 1, 0]),
        ("wise", "Consistency: 2\nRealism: 1", None, None),
        ("wise, verified", "Score: 1", [1], [1]),
        ("wise, verified", "Score: 1 would be for a dog. Score: 0", [0], [1]),
        ("wise, verified", "**Score:** 1", [1], None),
        ("wise, verified", "1", [1], [1]),
        ("wise, verified", "Score: 5\n1", None, [1]),
        ("wise, verified", "0\n1", None, None),
        # ImgEdit, see also test_judged_golden.py.
        ("imgedit", "Prompt Compliance: 4\nVisual Naturalness: 3", None, [4, 3]),
        ("imgedit, uge", "Score: 4", [4], [4]),
        ("imgedit, uge", "Brief reasoning: 5\nSo **Score: 4**", [4], [5]),
        ("imgedit, uge", "Score: 4/5", [4], None),
        # RISEBench: the first number behind the label, whatever its scale.
        ("rise", "**Final Score:** **4**", [4], [4]),
        ("rise", "Final Score: 2, or rather\nFinal Score: 5", [5], [2]),
        ("rise", "The Final Score is between 1 and 5. Final Score: 3", [3], [3]),
        ("rise", "Final Scores: 3", [3], [3]),
        ("rise", "Final Score: 4/5", [4], [4]),
        ("rise", "Final Score: 7", None, [7]),
        ("rise", "Final Score: 4\n\n3 things differ.", [4], None),
        ("rise", "I would say 4.", None, None),
        ("rise, logical", "Final Score: 0. Corrected Final Score: 1", [1], [0]),
        # KRIS: any digit from 1 to 5 that stands alone is a grade, JSON of any scale, too.
        ("kris", 'Fine. {"quality_score": 4, "reason": ""}', [4], [4]),
        ("kris", "Quality score 4", None, [4]),
        ("kris", "It is 4/5, of 2 parts.", None, [4]),
        ("kris", "The 3 cats are sharp.", None, [3]),
        ("kris", '{"quality_score": 7}', None, [7]),
        ("kris", '{"quality_score": 4.5}', [4.5], [4]),
        ("kris", '{"quality_score": 2} {"quality_score": 5}', None, [2]),
        ("kris", '{"quality_score": "good"}, that is 4', None, [4]),
        ("kris", "10 cats", None, None),
        ("kris, knowledge", "The 2 cats: quality score 4", None, [2]),
        ("kris, knowledge", "The 2 cats. Quality score: 4", None, [4]),
        ("kris, frames", "Frame 2: instruction score: 4", None, [2]),
        ("kris, two grades", '{"instruction_score": 5, "knowledge_score": 3}', [5, 3], [5, 3]),
        ("kris, two grades", "Instruction score: 5. Knowledge score: 3.", None, [5, 3]),
        ("kris, two grades", "Instruction score: 5.", None, [5]),
        ("kris, two grades", "5 and 3", None, None),
        # T2I-ReasonBench: a list of any length, in the first object up to its first brace.
        ("t2i_reasonbench", '{"reason": [], "score": [1, 0.5]}', [1, 0.5], [1, 0.5]),
        ("t2i_reasonbench", '{"score": [1, 0.5, 0]}', None, [1, 0.5, 0]),
        ("t2i_reasonbench", '{"score": [1]}', None, [1]),
        ("t2i_reasonbench", '{"score": [1, "0.5"]}', [1, 0.5], [1, 0.5]),
        ("t2i_reasonbench", '{"score": [1, 2]}', None, [1, 2]),
        ("t2i_reasonbench", '{"score": [1, 1], "reason": {"q1": "{"}}', [1, 1], None),
        ("t2i_reasonbench", '{"score": []}', None, None),
        ("t2i_reasonbench", '{"score": [NaN, 1]}', None, None),
    ],
)
def test_a_script_reads_what_is_not_read_strictly_or_as_another_grade(suite, text, strict, scripted):
    for read, expected in zip(SUITES[suite](), (strict, scripted), strict=True):
        if expected is None:
            with pytest.raises(BadReply):
                read(text)
        else:
            assert list(read(text).values()) == expected


def repeated(words):
    return f"{lines(0, 0, 0)}\n{lines(2, 2, 2)}"


def noted(words):
    return f"{kit.official(words)}\nNote: 1"


def corrected(words):
    return f"Final Score: {'0' if '1: ' in words else '1'}, no. {kit.official(words)}"


def counted(words):
    return "instruction score: 3, knowledge score: 3; 3 cats"


def too_long(words):
    return "A cat." if "qN" not in words else '{"score": [1, 0.5, 0]}'


@pytest.mark.parametrize(
    ("name", "rule", "strict", "scripted"),
    [
        ("wise", repeated, None, 1.0),
        ("imgedit", noted, 4.0, 3.25),
        ("rise", corrected, 1.0, 0.0),
        ("kris", counted, None, 50.0),
        ("t2i_reasonbench", too_long, None, 0.5),
    ],
)
def test_both_ways_of_reading_are_editions_that_share_no_table(run, tmp_path, capsys, name, rule, strict, scripted):
    legacy = {"make": lambda root: kit.wise(root, "legacy")} if name == "wise" else {}
    words = ("--edition", "legacy") if name == "wise" else ()
    found = []
    for reading in ("strict", "scripted"):
        place = tmp_path / reading
        found.append(run(name, *words, "--reading", reading, "--output", place, rule=rule, **legacy)[1])
    first, second = found
    assert [one["overall"] for one in found] == [strict, pytest.approx(scripted)]
    assert second["failed"] == {}
    mark = "-scripted-2026.04" if name == "rise" else "-scripted"
    assert second["edition"] == first["edition"].removesuffix("-2026.04") + mark
    assert first["metric"].partition("@")[0] != second["metric"].partition("@")[0]
    assert reports.main(["table", str(tmp_path / "strict"), str(tmp_path / "scripted")]) == 2
    assert "share no table" in capsys.readouterr().err


def test_a_run_is_read_anew_from_its_log_and_only_what_was_not_read_is_asked_again(run):
    def rule(words):
        return "Note: 1" if re.search(r"do edit 1\b", words) else noted(words)

    with serve(kit.answers(rule)) as endpoint:
        strict = run("imgedit", "--floor", "0", "--judge-max-failed", "1", endpoint=endpoint)[1]
        asked = len(endpoint.requests)
        again = ("--from", "observe", "--reading", "scripted", "--floor", "0", "--judge-max-failed", "1")
        scripted = run("imgedit", *again, endpoint=endpoint)[1]
    assert (strict["overall"], strict["failed"]) == (4.0, {"unparsable": 1})
    assert scripted["failed"] == {}
    assert scripted["tasks"]["replace"] == 1.0
    assert scripted["tasks"]["remove"] == 3.25
    assert len(endpoint.requests) == asked + 1


@pytest.mark.parametrize(
    ("name", "usual", "scripted"),
    [
        ("wise", "wise-verified", "wise-verified-scripted"),
        ("wise", "wise-legacy", "wise-legacy-scripted"),
        ("imgedit", "imgedit-basic", "imgedit-basic-scripted"),
        ("rise", "risebench-360-2026.04", "risebench-360-scripted-2026.04"),
        ("kris", "kris-1267", "kris-1267-scripted"),
        ("t2i_reasonbench", "t2i-reasonbench", "t2i-reasonbench-scripted"),
    ],
)
def test_reported_rows_stand_beside_both_ways_of_reading(name, usual, scripted):
    suite = find_suite(name)
    assert suite.reported(scripted) == suite.reported(usual) != []
