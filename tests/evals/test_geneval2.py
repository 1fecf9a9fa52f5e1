"""GenEval 2's published edition: its data, its questions, its means and tables, and the files of its own scripts."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from judge_kit import says, serve
from PIL import Image
from scipy import stats
from vlm_kit import build

from evals.core.records import Sample, Scored, UserError
from evals.geneval2 import icon_cases, official, published
from evals.geneval2.suite import GenEval2, Options
from evals.harness import cli
from evals.judged import __main__ as exported
from evals.judged.summaries import Judged, point
from evals.judges.interviewer import first_token_probability
from evals.suite import Case, Context
from got.util import tables
from got.util.images import png_bytes
from got.vlm.clients import AskParams
from got.vlm.local import TransformersBackend
from got.vlm.messages import USER, ImageFile, Message
from reports import __main__ as reports
from reports.frames import load
from reports.plain import table_of

ROWS = [
    {
        "prompt": f"three red dogs and a cat, number {number}",
        "atom_count": 3 + number % 2,
        "vqa_list": [["Are there any dogs?", "Yes"], ["How many dogs?", "three"], ["Are the dogs red?", "Yes"],
                     *([["Are there any cats?", "Yes"]] * (number % 2)), ["How many cats?", "one"]],
        "skills": ["object", "count", "attribute", *(["object"] * (number % 2)), "count"],
    }
    for number in range(4)
]  # fmt: skip


def write_data(folder, rows=ROWS):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / published.FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_images(folder):
    """Images where an official run has them: by prompt."""
    named = {}
    for number, row in enumerate(ROWS):
        named[row["prompt"]] = f"made/{number}.png"
        (folder / "made").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 24), (60 * number, 0, 0)).save(folder / named[row["prompt"]])
    (folder / "images.json").write_text(json.dumps(named))
    return folder / "images.json"


def likely(request):
    """A judge that is sure of kinds, at 0.8 of numbers, and knows no cats."""
    words = request["messages"][-1]["content"][-1]["text"]
    tokens = {"Yes": 0.9, " yes": 0.05, "No": 0.05}
    if "How many" in words:
        tokens = {"three": 0.5, "3": 0.25, "two": 0.25} if "dogs" in words else {"two": 1.0}
    answer = says(max(tokens, key=tokens.get), finish="length")
    top = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in tokens.items()]
    answer["choices"][0]["logprobs"] = {"content": [{**top[0], "top_logprobs": top}], "refusal": None}
    return answer


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the small set against a server."""

    def _run(*words, script=likely, output="run"):
        data = write_data(tmp_path / "data")
        images = write_images(tmp_path / "out")
        with serve(script) as endpoint:
            monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
            monkeypatch.setenv("JUDGE_MODEL", "judge-1")
            given = ["--data", data, "--allow-other-data", "--model", f"folder:{images}", "--judge", "openai",
                     "--output", tmp_path / output, "--judge-log", tmp_path / "log.jsonl", *words]  # fmt: skip
            code = cli.main(GenEval2, [str(word) for word in given])
        out, err = capsys.readouterr()
        last = out.strip().splitlines()[-1:] or [""]
        return code, json.loads(last[0]) if last[0].startswith("{") else {}, out, err, endpoint.requests

    return _run


FIRST = [0.95, 0.75, 0.95, 1e-6]
"""Probabilities of the answers about the first image; the last one is not among the likely tokens."""


def test_questions_are_asked_as_one_token_and_means_are_those_of_prompts(run, tmp_path):
    code, headline, out, err, requests = run("--floor", "0")
    assert (code, headline["missing"], headline["failed"]) == (0, 0, {}), err
    assert len(requests) == sum(len(row["vqa_list"]) + 1 for row in ROWS)
    assert requests[0]["max_tokens"] == 1
    assert requests[0]["logprobs"]
    assert [part["type"] for part in requests[0]["messages"][0]["content"]] == ["image_url", "text"]
    second = [0.95, 0.75, 0.95, 0.95, 1e-6]
    gm = [math.prod(p) ** (1 / len(p)) for p in (FIRST, second)]
    am = [math.fsum(p) / len(p) for p in (FIRST, second)]
    metrics = headline["metrics"]
    assert metrics["soft_tifa_gm"] == pytest.approx(sum(gm) / 2)
    assert metrics["soft_tifa_am"] == pytest.approx(sum(am) / 2)
    assert metrics["tifa"] == pytest.approx((3 / 4 + 4 / 5) / 2)
    assert metrics["vqascore"] == pytest.approx(0.95)
    assert metrics["count_more"] == pytest.approx(0.75)
    assert metrics["count"] == pytest.approx((0.75 + 1e-6) / 2)
    assert "-top20-floor1e-06" in headline["metric"]
    assert set(headline["tasks"]) == {"03_atoms", "04_atoms"}
    for words in ("Soft-TIFA by skill", "count, one"):
        assert words in " ".join(out.split())
    assert "Reported by others" not in out  # beside other data than theirs
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    titles = [str(table.title) for table in published.PublishedEdition().tables({**scores, "edition": "geneval2"})]
    assert ["Reported by others" in title for title in titles] == [False, False, True, True]
    assert "trained on GenEval 2 templates" in titles[-1]


def test_the_floor_is_chosen_when_it_is_summed_up_and_is_part_of_the_name(run):
    run("--floor", "0")
    _, headline, _, _, requests = run("--floor", "0", "--from", "verdict", "--topk-floor", "0")
    assert not requests
    assert headline["metrics"]["soft_tifa_gm"] == 0.0
    assert "-top20-floor0/" in headline["metric"].replace("-ours", "")


def test_files_of_the_official_scripts_are_read_and_written(run, tmp_path):
    run("--floor", "0")
    images = json.loads((tmp_path / "run" / official.IMAGES).read_text())
    assert list(images) == [row["prompt"] for row in ROWS]
    assert all((tmp_path / "run" / name).is_file() for name in images.values())
    lists = json.loads((tmp_path / "run" / official.SOFT_TIFA).read_text())
    assert lists[0] == pytest.approx(FIRST)  # as the table has them, with the floor
    assert [len(one) for one in lists] == [len(row["vqa_list"]) for row in ROWS]
    code, again, *_ = run("--floor", "0", "--model", f"folder:{tmp_path / 'run' / official.IMAGES}", output="again")
    assert code == 0
    assert again["metrics"]["soft_tifa_am"] > 0.6


def test_images_go_out_with_the_file_that_names_them_and_come_back(run, tmp_path, capsys):
    _, before, *_ = run("--floor", "0")
    assert exported.main([str(tmp_path / "run"), str(tmp_path / "given")]) == 0
    assert json.loads(capsys.readouterr().out) == {"written": len(ROWS), "missing": 0}
    named = json.loads((tmp_path / "given" / published.IMAGES).read_text())
    assert list(named) == [row["prompt"] for row in ROWS]
    for place in (tmp_path / "given", tmp_path / "given" / published.IMAGES):
        code, after, _, err, _ = run("--floor", "0", "--model", f"folder:{place}", output=f"again-{place.name}")
        assert (code, after["missing"], after["overall"]) == (0, 0, before["overall"]), err


def test_of_icons_nothing_goes_out_in_a_judged_layout(tmp_path, capsys):
    words = ["--model", "oracle", "--limit", "1", "--output", str(tmp_path / "run")]
    assert cli.main(GenEval2, words) == 0
    capsys.readouterr()
    assert exported.main([str(tmp_path / "run"), str(tmp_path / "given")]) == 2
    assert "expected a run of a judged benchmark but it is one of GenEval 2, without a judge" in capsys.readouterr().err


def test_files_of_the_official_scripts_go_by_the_original_prompts(run, tmp_path):
    better = tmp_path / "better.json"
    better.write_text(json.dumps({f"{number:05d}": f"better words {number}" for number in range(len(ROWS))}))
    code, headline, *_ = run("--floor", "0", "--rewritten-from", better)
    assert (code, headline["missing"]) == (0, 0)
    images = json.loads((tmp_path / "run" / official.IMAGES).read_text())
    assert list(images) == [row["prompt"] for row in ROWS]


def test_a_report_shows_a_judge_s_metrics_beside_their_floor(run, tmp_path):
    _, headline, *_ = run("--floor", "1")
    (loaded,), _ = load([tmp_path / "run"])
    assert loaded.is_scored
    table = table_of([loaded])
    assert [column.title for column in table.columns][:4] == [*published.HEADLINES]  # nobody else's judge beside it
    measured, floor = table.rows
    assert measured.cells[0].value == pytest.approx(100 * headline["overall"])
    assert floor.cells[0].value == pytest.approx(100 * headline["floor"]["value"])
    assert "judge-1" in table.caption
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    skills = published.PublishedEdition().tables(scores)[1]
    lowest = [scores["metrics"]["floor"][name]["value"] for name in ("object", "count")]
    found = dict(zip(skills.columns[0].cells, skills.columns[3].cells, strict=True))
    assert [found[name] for name in ("object", "count")] == [tables.number(100 * value) for value in lowest]


def test_the_two_editions_stand_in_one_report_in_tables_of_their_own(run, tmp_path, capsys):
    run("--floor", "1")
    icons = ["--model", "oracle", "--limit", "2", "--output", str(tmp_path / "icons")]
    assert cli.main(GenEval2, icons) == 0
    runs = [str(tmp_path / name) for name in ("run", "icons")]
    assert reports.main([*runs, "--output", str(tmp_path / "report")]) == 0
    heads = [path.read_text().splitlines()[0] for path in sorted((tmp_path / "report" / "tables").glob("*.csv"))]
    assert len(heads) == 2
    assert [sum(name in head for head in heads) for name in ("soft-tifa-gm", "soft-gm")] == [1, 1]
    assert not any("object-0" in head for head in heads)
    capsys.readouterr()
    assert reports.main(["table", *runs]) == 2
    assert "share no table" in capsys.readouterr().err


def test_a_dry_run_counts_the_questions_and_the_money(run):
    code, printed, _, _, requests = run("--dry-run", "--floor", "0", "--judge-price", "2", "8")
    assert (code, printed["questions"], requests) == (0, sum(len(row["vqa_list"]) + 1 for row in ROWS), [])
    usd = (printed["tokens_in_about"] * 2 + printed["tokens_out_about"] * 8) / 1e6
    assert printed["usd_about"] == pytest.approx(usd, abs=0.01)


def test_a_judge_without_probabilities_ends_the_run_before_it_is_paid_for_nothing(run, tmp_path):
    code, headline, _, err, requests = run("--floor", "0", "--judge-concurrency", "1", script=says("Yes"))
    assert (code, headline) == (2, {})
    assert "the endpoint gives no log-probabilities of the first token: not one of the first" in err
    # Questions about one image go out together; three images are asked about.
    assert len(requests) <= sum(len(row["vqa_list"]) + 1 for row in ROWS[:4])
    code, headline, *_ = run("--floor", "0")
    assert (code, headline["missing"], headline["failed"]) == (0, 0, {})  # the same command goes on with one that does


def test_a_reply_without_probabilities_now_and_then_is_missing(run):
    def now_and_then(request):
        return says("Yes") if "number 2" in str(request) or "How many cats" in str(request) else likely(request)

    code, headline, _, err, _ = run("--floor", "0", script=now_and_then)
    assert (code, headline["overall"], headline["failed"]) == (0, None, {"no probabilities": 5}), err


@pytest.mark.parametrize("refused", [ROWS[0]["prompt"], ROWS[-1]["prompt"]], ids=["first", "last"])
def test_a_filter_that_refuses_an_image_ends_no_run(run, refused, monkeypatch):
    monkeypatch.setattr("evals.judges.interviewer._NEVER", 3)  # fewer than there are questions about an image
    row = next(row for row in ROWS if row["prompt"] == refused)
    asked = {question for question, _ in row["vqa_list"]} | {refused}

    def filtered(request):
        return says("Yes") if any(words in str(request) for words in asked) else likely(request)

    code, headline, _, err, _ = run("--floor", "0", "--judge-concurrency", "1", script=filtered)
    assert code == 0, err
    assert headline["failed"]["no probabilities"] >= len(asked)


def test_a_local_model_answers_from_its_whole_vocabulary(tmp_path, capsys):
    build(tmp_path / "vlm")
    given = ["--data", write_data(tmp_path / "data", ROWS[:2]), "--allow-other-data", "--floor", "1",
             "--model", f"folder:{write_images(tmp_path / 'out')}", "--judge", f"hf:{tmp_path / 'vlm'}",
             "--output", tmp_path / "run", "--judge-log", tmp_path / "log.jsonl"]  # fmt: skip
    assert cli.main(GenEval2, [str(word) for word in given]) == 0
    headline = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "-top" not in headline["metric"]
    assert (headline["missing"], headline["floor"]["n"]) == (0, 2)
    lists = json.loads((tmp_path / "run" / official.SOFT_TIFA).read_text())
    assert all(0 < p < 1 for one in lists for p in one)
    by_hand = [math.prod(one) ** (1 / len(one)) for one in lists]
    assert headline["metrics"]["soft_tifa_gm"] == pytest.approx(sum(by_hand) / 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": ROWS[1]["prompt"]}, "occurs twice"),
        ({"skills": ["object"]}, "a question and an answer for each of skills"),
        ({"skills": ["object", "count", "smell", "count"]}, "expected skills of object"),
        ({"atom_count": 4}, "expected 4 questions beside those about one but got 3"),
    ],
)
def test_data_that_are_not_of_the_schema_are_refused(tmp_path, change, words):
    root = write_data(tmp_path, [{**ROWS[0], **change}, *ROWS[1:]])
    with pytest.raises(UserError, match=words):
        published.PublishedEdition().load(root, Options(data=root, allow_other_data=True))


def test_a_judge_of_the_icon_edition_is_refused(tmp_path, capsys):
    code = cli.main(GenEval2, ["--judge", "hf:any", "--dry-run", "--output", str(tmp_path / "run")])
    assert (code, "need none" in capsys.readouterr().err) == (2, True)


def test_the_icon_edition_s_prompts_are_not_rewritten_in_silence(tmp_path, capsys):
    words = ["--rewritten-from", str(tmp_path / "any.json"), "--dry-run", "--output", str(tmp_path / "run")]
    code, err = cli.main(GenEval2, words), capsys.readouterr().err
    assert (code, err.count("\n"), "--rewritten-from goes with --data" in err) == (2, 1, True)


def test_other_data_are_refused_unless_told_otherwise(tmp_path):
    root = write_data(tmp_path)
    with pytest.raises(UserError, match="--allow-other-data"):
        published.PublishedEdition().load(root, Options(data=root))
    found = published.PublishedEdition().load(root, Options(data=root, allow_other_data=True))
    assert re.fullmatch(r"geneval2-other-[0-9a-f]{8}", found.edition)


@pytest.mark.parametrize(
    ("content", "words"),
    [({"a": "../x.png"}, "expected the path of an image"), ({"a": 3}, "expected the path of an image"),
     ({"no such prompt": "x.png"}, "of its 1 prompt none is one of this run")],
)  # fmt: skip
def test_a_file_of_images_that_does_not_fit_is_one_line(tmp_path, content, words, capsys):
    file = tmp_path / "images.json"
    file.write_text(json.dumps(content))
    given = ["--data", write_data(tmp_path / "data"), "--allow-other-data", "--dry-run", "--model", f"folder:{file}"]
    code = cli.main(GenEval2, [str(word) for word in (*given, "--judge", "hf:none", "--output", tmp_path / "run")])
    assert code == 2
    assert words in capsys.readouterr().err


def combined(probabilities, options):
    facts = {"vqa_list": ROWS[0]["vqa_list"], "skills": ROWS[0]["skills"]}
    case = Case(id="0", prompt="", tag="03_atoms", metadata={"facts": facts, "texts": {}})
    scores = {str(i): {str(i): p, "tifa": 1.0} for i, p in enumerate(probabilities)}
    return published.PublishedEdition().combine(case, scores, options)


def test_sums_above_one_stay_and_a_local_judge_has_no_floor():
    values = combined([1 + 1e-7, 1.0, 1.0, 0.0], Options(judge="hf:x"))
    assert (values["soft_tifa_gm"], values["object/0"]) == (0.0, 1 + 1e-7)
    assert combined([1.0, 1.0, 1.0], Options(judge="hf:x")).keys() == {"object/0", "count_more/0", "attribute/0"}


def test_skills_pool_questions_rather_than_means_of_prompts():
    rows = [
        Judged(task="03_atoms", subtask="", cluster=str(i), values=values, expected=frozenset(values))
        for i, values in enumerate([{"object/0": 1.0}, {"object/0": 0.0, "object/1": 0.0, "object/2": 0.0}])
    ]
    (metric,) = (one for one in published.PublishedEdition.metrics if one.name == "object")
    assert point(metric, rows) == 0.25


def test_tables_by_skill_and_by_atoms_are_those_of_the_official_analysis(tmp_path):
    """Written from its description: skills pool all questions, atoms take the mean of prompts; x 100, two digits."""
    rng = np.random.default_rng(0)
    rows = [{key: case.metadata[key] for key in official.KEYS} for case in icon_cases.cases()[::10]]
    lists = [rng.uniform(0, 1, len(row["skills"])).tolist() for row in rows]
    lists[0][0], lists[1][1] = 0.0, 1 + 1e-7
    suite, options = published.PublishedEdition(), Options(data=write_data(tmp_path, rows), allow_other_data=True)
    cases = [item.as_case() for item in suite.load(options.data, options).items]
    scored = []
    for case, values in zip(cases, lists, strict=True):
        scores = {str(i): {str(i): p, "tifa": float(p > 0.5)} for i, p in enumerate(values)} | {"whole": {"whole": 0.5}}
        seen = {"answers": [{"judge": "j@x#0", "scores": scores, "failures": {}, "calls": 1, "tokens_in": 1,
                             "tokens_out": 1, "usd": None}], "floor": []}  # fmt: skip
        score = suite.score(case, seen, options)
        scored.append(Scored(sample=Sample(case=case, index=0, seed=0), observation=seen, score=score))
    context = Context(model="m", checkpoint=None, detector="", world="photographs", images_per_prompt=1, seed=0)
    metrics = suite.summarize(cases, scored, [], options, context)["metrics"]
    gm = [0.0 if 0.0 in one else float(stats.gmean(one)) for one in lists]
    assert metrics["all"]["soft_tifa_gm"]["value"] == pytest.approx(np.mean(gm))
    assert metrics["all"]["soft_tifa_am"]["value"] == pytest.approx(np.mean([np.mean(one) for one in lists]))
    for skill in ("object", "attribute", "count", "position"):
        pooled = [p for row, one in zip(rows, lists, strict=True) for p, s in zip(one, row["skills"], strict=True)
                  if s == skill]  # fmt: skip
        assert metrics["all"][skill]["value"] == pytest.approx(np.mean(pooled))
    assert len(metrics["tasks"]) == 8
    for atoms, task in zip(range(3, 11), metrics["tasks"], strict=True):
        own = [one for row, one in zip(rows, gm, strict=True) if row["atom_count"] == atoms]
        assert metrics["tasks"][task]["soft_tifa_gm"]["value"] == pytest.approx(np.mean(own))
        assert metrics["tasks"][task]["soft_tifa_gm"]["n"] == len(own) == 5


def test_spellings_with_one_first_token_count_twice_of_a_local_judge(tmp_path):
    """As in the official script: a tokenizer of bytes begins " three" and " 3" with the same blank."""
    backend = TransformersBackend(str(build(tmp_path / "m")))
    words = published.spellings("count", "three")
    image = ImageFile(data=png_bytes(Image.new("RGB", (56, 56), "red")))
    messages = (Message(role=USER, parts=(image, "How many dogs? Answer in one word.")),)
    reply = backend.answer(messages, AskParams(max_tokens=1, spellings=words))
    ids = [backend._processor.tokenizer.encode(word)[0] for word in words]
    assert len(set(ids)) == 4 < len(ids)  # t, T, blank, 3
    once = sum(reply.spelled[word] for word in ("three", "Three", " 3", "3"))
    assert first_token_probability(reply, words) == pytest.approx(once + 2 * reply.spelled[" 3"])


def test_answers_that_cannot_be_known_are_neither_zero_nor_guessed():
    options = Options(judge="openai:x", topk_floor=0.01)
    assert combined([0.5, 0.0], options) == {"object/0": 0.5, "count_more/0": 0.01}
    assert published.spellings("count", "eleven")[-2:] == ("other", " other")


def test_the_icon_edition_s_questions_are_data_of_the_same_schema(tmp_path):
    rows = [{key: case.metadata[key] for key in official.KEYS} for case in icon_cases.cases()]
    root = write_data(tmp_path, rows)
    found = published.PublishedEdition().load(root, Options(data=root, allow_other_data=True))
    assert [item.task for item in found.items] == [case.tag for case in icon_cases.cases()]
    assert len({item.task for item in found.items}) == 8


def test_published_wording_is_read_from_a_clone_by_its_digest(tmp_path):
    script = 'def soft_tifa(model):\n    ask("{} Say it in a word".format(question))\n'
    whole = 'def vqa_score(model):\n    ask("Is it {}?".format(prompt), ["Yes"])\n'
    (tmp_path / "evaluation.py").write_text("import does_not_exist\n" + script + whole)
    texts = published._published(tmp_path / "evaluation.py")
    assert texts == {"question": "{question} Say it in a word", "whole": "Is it {prompt}?"}
