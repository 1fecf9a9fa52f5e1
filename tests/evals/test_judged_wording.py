"""The wording of judged benchmarks: filled in once, and read from scripts without running them."""

import dataclasses
import re

import judged_kit as kit
import pytest

from evals import t2i_reasonbench
from evals.core.records import UserError
from evals.harness.run_spec import find_suite
from evals.judged import wording
from evals.judged.records import origin_of


def test_what_is_filled_in_is_never_filled_itself():
    assert wording.fill("{a} {b}", {"{a}": "{b}", "{b}": "{a}"}) == "{b} {a}"


@pytest.mark.parametrize("name", sorted(kit.SCRIPTS))
def test_published_wording_of_each_script_fills_every_question(name, tmp_path, capsys):
    """Scripts of the same form that say other things: every question comes out with its own text."""
    suite, root = find_suite(name), tmp_path / "clone"
    file, content = kit.SCRIPTS[name]
    (root / file).parent.mkdir(parents=True)
    (root / file).write_text(content)
    published = suite.published(suite.options())
    found = wording.Wording(kind="published", texts=published.read(root / file))
    ours = suite.ours(suite.options())
    chosen = wording.choose(f"published:{found.digest}", ours, published, root, suite.origin)
    assert chosen.texts == found.texts
    assert all(text for text in chosen.texts.values())
    assert wording.choose("auto", ours, published, root, suite.origin).kind == "ours"  # nobody knows this one
    assert f"nobody has checked {root / file}" in capsys.readouterr().err.replace("\n", " ")
    known = dataclasses.replace(suite.origin, wording={found.digest: "here"})
    assert wording.choose("auto", ours, published, root, known).texts == found.texts
    inner = root / file.partition("/")[0]
    assert wording.choose("auto", ours, published, inner if "/" in file else root, known).texts == found.texts
    (root / file).write_text("of another version")
    assert wording.choose("auto", ours, published, root, known).kind == "ours"
    assert "the published one cannot be read" in capsys.readouterr().err
    with pytest.raises(UserError, match=re.escape(str(root / file))):
        wording.choose("published", ours, published, root, known)


def test_a_question_that_a_script_sends_as_it_is_keeps_its_doubled_braces(tmp_path):
    """KRIS fills nine questions by `str.format`, and sends the one about quality unfilled."""
    (tmp_path / "prompts.py").write_text(kit.SCRIPTS["kris"][1])
    texts = find_suite("kris").published(None).read(tmp_path / "prompts.py")
    assert [name for name, text in texts.items() if "{{" in text] == ["quality"]
    assert '{"n": 1}' in texts["consist"]


@pytest.mark.parametrize("name", [*sorted(kit.SCRIPTS), "wise", "geneval2", "t2i_reasonbench"])
def test_every_benchmark_has_a_published_wording_that_is_known(name):
    origin = origin_of(name)
    assert origin.wording
    assert all(re.fullmatch("[0-9a-f]{8}", digest) and place for digest, place in origin.wording.items())


def reason_scripts(root):
    """Four scripts in the form of T2I-ReasonBench's, with other words."""
    for file in t2i_reasonbench.SCRIPTS:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        groups = ("one", "quality") if "idiom" in file or "textual" in file else ("one", "detail", "quality")
        asked = [f'    q{i} = f"""\\\nSay of {{qs_{group}_question_criteria}}\n{{{{"score": []}}}}"""\n'
                 for i, group in enumerate(groups, 2)]  # fmt: skip
        (root / file).write_text('import does_not_exist\ndef eval(args):\n    q1 = "What is it?"\n' + "".join(asked))
    return root / t2i_reasonbench.SCRIPTS[0]


def test_the_wording_of_t2i_reasonbench_is_what_its_four_scripts_say_alike(run, tmp_path):
    root = kit.t2i_reasonbench(tmp_path / "data")
    script = reason_scripts(root)
    err = run("t2i_reasonbench", "--wording", "published")[3]
    digest = err.partition("--wording published:")[2].split()[0]
    words = ("--tasks", "entity", "--limit", "1", "--floor", "0", "--wording", f"published:{digest}")
    rule = lambda text: '{"score": [1, 0.5]}' if "Say of" in text else "A plain image."  # noqa: E731
    code, headline, _, err, requests = run("t2i_reasonbench", *words, rule=rule)
    assert (code, headline["wording"], headline["overall"]) == (0, "published", pytest.approx(0.75)), err
    asked = [request["messages"][-1]["content"][-1]["text"] for request in requests]
    assert asked[0] == "What is it?"
    groups = [text for text in asked[1:] if "entity_evaluation" in text]  # they are asked side by side, in any order
    assert [text.startswith("Say of {'q1': 'Is entity_evaluation 1 there?', 'c1': ") for text in groups] == [True]
    assert groups[0].endswith('}\n{"score": []}')
    script.write_text(script.read_text().replace("Say of", "Tell of"))
    with pytest.raises(UserError, match="expected one q1 and one text of q2 to q4 in all of 4 scripts"):
        t2i_reasonbench._published(script)
