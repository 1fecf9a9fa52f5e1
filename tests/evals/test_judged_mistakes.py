"""The judged benchmarks and what people do wrong: one line each, and nothing is scored by accident."""

import dataclasses
import json
import shutil

import judged_kit as kit
import pytest
from judge_kit import serve
from PIL import Image

from evals import kris, merge, wise
from evals.core.records import UserError
from evals.harness import cli
from evals.harness.run_spec import find_suite
from evals.judged import __main__ as exported
from evals.judged import suite
from evals.judged.files import load_json
from got.util.files import sha256
from got.util.weight_files import LFS
from reports import __main__ as reports

WHERE = {
    "wise": ("github.com/PKU-YuanGroup/WISE", "2 MB", "all rights reserved"),
    "genevalpp": ("github.com/yejy53/Echo-4o", "0.1 MB", "Apache-2.0"),
    "imgedit": ("github.com/PKU-YuanGroup/ImgEdit", "1 GB", "all rights reserved"),
    "gedit": ("stepfun-ai/GEdit-Bench", "1 GB", "MIT by its card"),
    "rise": ("github.com/PhoenixZ810/RISEBench", "284 MB", "all rights reserved"),
    "kris": ("github.com/mercurystraw/Kris_Bench", "1 GB", "all rights reserved"),
    "t2i_reasonbench": ("github.com/KaiyueSun98/T2I-ReasonBench", "5 MB", "all rights reserved"),
    "geneval2": ("github.com/facebookresearch/GenEval2", "0.4 MB", "CC BY-NC 4.0"),
}


@pytest.mark.parametrize("name", WHERE)
def test_without_data_it_says_where_to_get_it_how_large_it_is_and_its_licence(capsys, tmp_path, name):
    given = ["--data", str(tmp_path / "none")] if name == "geneval2" else []  # without it, its icon edition is run
    assert cli.main(find_suite(name), ["--model", "oracle", "--judge", "openai:m", *given]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    for words in ("no such folder" if given else "needs --data", *WHERE[name]):
        assert words in err


@pytest.mark.parametrize("name", ["wise", "genevalpp", "rise", "geneval2"])
def test_the_help_of_a_judged_benchmark_speaks_of_its_judge(capsys, name):
    with pytest.raises(SystemExit):
        cli.build_parser(find_suite(name)).parse_args(["--help"])
    out = capsys.readouterr().out
    assert "openai[:MODEL], hf:PATH|ID" in " ".join(out.split())
    if name != "geneval2":  # without --data, a detector looks at its icons
        assert f"python -m evals.{name} --data CLONE --model folder:my_images --judge hf:MODEL" in out
        for idle in ("--detector", "--embedder", "measured", "two minutes", "with a detector", "the embedded GoT"):
            assert idle not in out


def test_no_prompts_at_all_are_one_line(run, tmp_path):
    root = kit.genevalpp(tmp_path / "data")
    (root / "test_scripts" / "Geneval++.jsonl").write_text("")
    code, _, _, err, requests = run("genevalpp")
    assert (code, requests) == (2, [])
    file = root / "test_scripts" / "Geneval++.jsonl"
    assert err == f"genevalpp: error: {file}: expected one object or more but the list is empty\n"


def test_what_a_run_does_not_use_is_null(run, tmp_path):
    _, printed, *_ = run("wise", "--dry-run")
    assert (printed["generate"]["checkpoint"], printed["observe"]["embedder"]) == (None, None)
    run("wise", "--limit", "1")
    assert json.loads((tmp_path / "run" / "scores.json").read_text())["detector"] is None


def test_other_data_have_no_number_of_the_published_in_their_name(run):
    assert run("rise", "--limit", "1")[1]["edition"].startswith("risebench-other-")


OTHER_CASES = {
    "wise": (("--edition", "legacy"), 'edition: "verified" -> "legacy"'),
    "imgedit": (("--edition", "uge"), 'edition: "basic" -> "uge"'),
    "gedit": (("--subset", "intersection", "--language", "cn"),
              'language: "en" -> "cn"; subset: "full" -> "intersection"'),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_CASES)
def test_a_run_of_other_cases_is_refused_by_the_option_that_chose_them(run, tmp_path, name):
    for edition in {"wise": ("verified", "legacy"), "imgedit": ("basic", "uge")}.get(name, ()):
        kit.SETS[name](tmp_path / "data", edition)
    words, said = OTHER_CASES[name]
    with serve(kit.answers(kit.official)) as endpoint:
        assert run(name, endpoint=endpoint)[0] == 0
        before, asked = (tmp_path / "run" / "run.json").read_bytes(), len(endpoint.requests)
        for start in ((), ("--from", "verdict")):
            code, _, _, err, _ = run(name, *words, *start, endpoint=endpoint)
            told = f"was made with other arguments ({said}); choose another --output"
            assert (code, told in err, len(endpoint.requests)) == (2, True, asked), err
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_parts_of_other_cases_are_no_part_of_a_run(run, tmp_path, capsys):
    kit.wise(tmp_path / "data", "legacy")
    kit.wise(tmp_path / "data")
    with serve(kit.answers(kit.official)) as endpoint:
        assert run("wise", "--edition", "legacy", endpoint=endpoint)[0] == 0
        assert run("wise", "--shard", "1/1", "--output", tmp_path / "new", endpoint=endpoint)[0] == 0
    assert merge.main([str(tmp_path / "new"), "--output", str(tmp_path / "run")]) == 2
    assert 'was made with other arguments (edition: "legacy" -> "verified")' in capsys.readouterr().err


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("judge", "said"),
    [
        ("hf:{}/nowhere", "neither a folder here nor the form of a hub id (owner/name)"),
        ("hf:{}/data", "expected a folder with config.json"),
        ("hf:{}/file", "expected a folder with config.json"),
        ("hf:{}/pointer", "model.safetensors is a Git LFS pointer, not the weights"),
        ("hf", "Expected hf:PATH or hf:ID but got 'hf'"),
        ("hg:{}", "needs --judge, one of openai[:MODEL], hf:PATH|ID; it is hg:"),
    ],
)
def test_a_judge_that_cannot_be_there_is_refused_before_anything_else(run, tmp_path, judge, said, more):
    (tmp_path / "file").write_text("{}")
    kit.write(tmp_path / "pointer" / "config.json", {})
    (tmp_path / "pointer" / "model.safetensors").write_bytes(LFS + b"v1")
    code, _, out, err, requests = run("wise", "--judge", judge.format(tmp_path), *more)
    assert (code, out, err.count("\n"), requests) == (2, "", 1, [])
    assert said in err
    assert not (tmp_path / "run").exists()


def test_a_judge_that_the_hub_has_not_is_one_line(run, tmp_path):
    code, _, _, err, requests = run("wise", "--judge", "hf:nobody/none")  # asked once, where libraries ask for minutes
    assert (code, requests, err.count("\n")) == (2, [], 2)
    assert "nobody/none cannot be loaded: no folder" in err
    assert not (tmp_path / "run").exists()


def test_without_a_judge_nothing_is_drawn(run):
    code, _, _, err, _ = run("wise", "--judge", "none")
    assert code == 2
    assert "needs --judge, one of openai[:MODEL], hf:PATH|ID" in err
    assert "to do" not in err


@pytest.mark.parametrize(
    ("name", "file", "change", "words"),
    [
        ("wise", "data_verified/natural_science_verified.json", lambda t: t.replace('"prompt_id": 8', '"prompt_id": 7'),
         "id must be unique, and 7 occurs twice: natural_science_verified.json row 1 and natural_sc"),
        ("wise", "data_verified/natural_science_verified.json", lambda t: t.replace("Chemistry", "Alchemy"),
         "expected 'Category' to be one of"),
        ("wise", "data_verified/natural_science_verified.json", lambda t: t[:40], "expected JSON"),
        ("wise", "data_verified/natural_science_verified.json", lambda t: "3", "verified.json: expected a JSON list"),
        ("genevalpp", "test_scripts/Geneval++.jsonl", lambda t: t.replace("size_spatial_attr", "size"),
         "expected 'tag' to be one of"),
        ("imgedit", "Basic/basic_edit.json", lambda t: t.replace("animal/1", "../1"), "is outside"),
        ("imgedit", "Basic/basic_edit.json", lambda t: t.replace("animal/1", "animal/9"), "is missing"),
        ("imgedit", "Basic/basic_edit.json", lambda t: t.replace("extract", "distract"),
         "expected 'edit_type' to be one of"),
        ("rise", "datav2_total_w_subtask.json", lambda t: t.replace('"instruction"', '"instruct"'),
         "expected a text under 'instruction'"),
        ("kris", "KRIS_Bench/temporal_prediction/annotation.json", lambda t: t.replace("1-3.png", "1-1.png"),
         "three of four frames"),
        ("t2i_reasonbench", "prompts/entity_reasoning.json", lambda t: t.replace('"id": 3', '"id": 4'),
         "ids of prompts and questions must agree"),
        ("t2i_reasonbench", "prompts/entity_reasoning.json", lambda t: t.replace('"id": 3', '"id": "3rd"'),
         "entity_reasoning.json row 3: "),
        ("t2i_reasonbench", "prompts/entity_reasoning.json", lambda t: "3", "entity_reasoning.json: expected a JSON"),
        ("t2i_reasonbench", "deepseek_evaluation_qs/evaluation_entity.json", lambda t: '{"1": [], "2": [], "3": []}',
         "evaluation_entity.json: expected questions"),
        ("wise", "data_verified/natural_science_verified.json", lambda t: "[]",
         "natural_science_verified.json: expected one object or more"),
        ("kris", "KRIS_Bench/biology/annotation.json", lambda t: "{}", "annotation.json: expected one key or more"),
        ("kris", "KRIS_Bench/biology/annotation.json", lambda t: "[3]", "biology/annotation.json: expected a JSON"),
        ("kris", "KRIS_Bench/biology/annotation.json", lambda t: '{"1": 3}', "biology/annotation.json: expected"),
        ("kris", "KRIS_Bench/final_data.json", lambda t: '{"1": 3}', "final_data.json: expected a JSON"),
        ("kris", "KRIS_Bench/biology/annotation.json", lambda t: t.replace('"1.png"', "3"),
         "biology 1: expected one image or more"),
        ("kris", "KRIS_Bench/temporal_prediction/annotation.json",
         lambda t: t.replace("1-4.png", "annotation.json"), "three of four frames"),
        ("genevalpp", "test_scripts/Geneval++.jsonl",
         lambda t: t.replace('[{"class": "cat", "count": 2, "color": "red"}]', '["cat"]'),
         "Geneval++.jsonl line 1: expected objects"),
    ],
)  # fmt: skip
def test_data_that_do_not_fit_are_one_line(run, tmp_path, name, file, change, words):
    path = kit.SETS[name](tmp_path / "data") / file
    path.write_text(change(path.read_text() if path.exists() else ""))
    code, _, _, err, requests = run(name)
    assert (code, err.count("\n"), requests) == (2, 1, []), err
    assert words in err


TWICE = {
    "wise": (
        "data_verified/natural_science_verified.json",
        '"prompt_id": 8',
        '"prompt_id": 7',
        "id must be unique, and 7 occurs twice: natural_science_verified.json row 1 and natural_sc",
    ),
    "imgedit": ("Basic/basic_edit.json", '"22": ', '"21": ', "'21' occurs twice"),
    "rise": ("datav2_total_w_subtask.json", "causal_reasoning_5", "causal_reasoning_1", "causal_reasoning_1 occurs"),
    "kris": ("KRIS_Bench/biology/annotation.json", '{"1": ', '{"1": {}, "1": ', "'1' occurs twice"),
    "t2i_reasonbench": ("prompts/entity_reasoning.json", '"id": 2', '"id": 1', "entity-0001 occurs twice"),
}


@pytest.mark.parametrize("name", TWICE)
def test_a_key_that_occurs_twice_is_one_line(run, tmp_path, name):
    file, before, after, words = TWICE[name]
    path = kit.SETS[name](tmp_path / "data") / file
    path.write_text(path.read_text().replace(before, after))
    code, _, _, err, requests = run(name)
    assert (code, err.count("\n"), requests) == (2, 1, []), err
    assert words in err


def test_a_key_of_gedit_that_occurs_twice_is_one_line(run, tmp_path):
    import pyarrow.parquet

    path = next(kit.gedit(tmp_path / "data").glob("*.parquet"))
    rows = pyarrow.parquet.read_table(path).to_pylist()
    rows[3]["key"] = rows[2]["key"]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    code, _, _, err, requests = run("gedit")
    assert (code, err.count("\n"), requests) == (2, 1, [])
    assert "en02 occurs twice" in err


@pytest.mark.parametrize("name", ["rise", "kris"])
def test_an_image_that_the_data_name_and_that_is_not_there_is_one_line(run, tmp_path, name):
    root = kit.SETS[name](tmp_path / "data")
    lost = sorted(root.rglob("*.png"))[0]
    lost.unlink()
    code, _, _, err, requests = run(name)
    assert (code, err.count("\n"), requests) == (2, 1, [])
    assert f"{lost.name}' is missing in" in err


@pytest.mark.parametrize("name", kit.SETS)
def test_data_of_another_edition_are_refused_unless_told(tmp_path, capsys, name):
    root = kit.SETS[name](tmp_path / "data")
    assert cli.main(find_suite(name), ["--data", str(root), "--model", "oracle", "--judge", "openai:m"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "--allow-other-data" in err
    if name in ("wise", "genevalpp", "imgedit", "rise", "t2i_reasonbench"):
        assert "sha256" in err


QUESTIONS = {"wise": 12, "genevalpp": 8, "imgedit": 12, "gedit": 24, "rise": 31, "kris": 36, "t2i_reasonbench": 42}


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_dry_run_counts_the_questions_and_the_money(run, name):
    code, printed, _, _, requests = run(name, "--dry-run", "--floor", "0", "--judge-price", "2", "8")
    assert (code, printed["questions"], requests) == (0, QUESTIONS[name], [])
    usd = (printed["tokens_in_about"] * 2 + printed["tokens_out_about"] * 8) / 1e6
    assert printed["usd_about"] == pytest.approx(usd, abs=0.01)


def test_a_dry_run_counts_what_a_dialogue_sends_again_and_the_length_of_replies(run):
    words = ("--tasks", "entity", "--limit", "1", "--dry-run", "--floor", "0", "--judge-max-tokens")
    short, long = (run("t2i_reasonbench", *words, tokens)[1] for tokens in ("50", "100"))
    assert (short["questions"], short["tokens_out_about"], long["tokens_out_about"]) == (4, 200, 400)
    assert 4 * 1100 < short["tokens_in_about"] == long["tokens_in_about"] - 3 * 50  # the image four times


@pytest.mark.parametrize("count", [9, 12])
def test_shifted_numbers_of_images_are_refused(run, tmp_path, count):
    root = kit.wise(tmp_path / "data")
    for number in range(count):
        kit.draw(root / "results" / f"{number}.png", number)
    code, _, _, err, requests = run("wise")
    assert (code, requests) == (2, [])
    assert f"0.png is of no case and case {count} has no image: the numbers seem to be shifted" in err


def test_shifted_keys_of_edits_are_refused(run, tmp_path):
    root = kit.imgedit(tmp_path / "data")
    for key in range(20, 32):  # 21 to 32
        kit.draw(root / "results" / f"{key}.png", key)
    code, _, _, err, requests = run("imgedit", "--model", f"folder:{root / 'results'}")
    assert (code, requests) == (2, [])
    assert "numbers seem to be shifted" in err


def _folders(root, numbers):
    for number in numbers:
        kit.draw(root / "results" / f"{number:05d}" / "samples" / "0000.png", number)


@pytest.mark.parametrize(("name", "count"), [("genevalpp", 8), ("wise", 12)])
def test_folders_from_0_are_the_prompts_in_order(run, tmp_path, name, count):
    _folders(kit.SETS[name](tmp_path / "data"), range(count))
    code, headline, _, err, _ = run(name, "--floor", "0")
    assert (code, headline["images"], headline["missing"]) == (0, count, 0), err
    assert "its numbers are not the cases': 0 stands for case 1" in err
    taken = (tmp_path / "run" / "images").glob("*/samples/0000.png")
    drawn = {path.parts[-3]: Image.open(path).getpixel((0, 0)) for path in taken}
    assert drawn == {str(number + 1): kit.tint(number) for number in range(count)}


def test_a_row_that_occurs_twice_in_the_merged_file_of_kris_is_named(run, tmp_path):
    root = kit.kris(tmp_path / "data") / "KRIS_Bench"
    row = json.loads((root / "biology" / "annotation.json").read_text())["1"]
    (root / kris.MERGED).write_text(json.dumps([{"type": "biology", "id": "1", **row}] * 2))
    code, _, _, err, requests = run("kris")
    assert (code, requests) == (2, [])
    assert f"biology-1 occurs twice: {kris.MERGED} row 1 and {kris.MERGED} row 2" in err


@pytest.mark.parametrize("numbers", [range(5), [0, 2, 3], range(2, 10)])
def test_folders_that_seem_to_be_shifted_are_refused(run, tmp_path, numbers):
    _folders(kit.genevalpp(tmp_path / "data"), numbers)
    code, _, _, err, requests = run("genevalpp")
    assert (code, err.count("\n"), requests) == (2, 1, [])
    assert "numbers seem to be shifted" in err


def test_folders_from_1_may_be_few(run, tmp_path):
    _folders(kit.genevalpp(tmp_path / "data"), range(1, 6))
    code, headline, _, err, _ = run("genevalpp")
    assert (code, headline["images"], headline["missing"]) == (0, 5, 3), err


@pytest.mark.parametrize("name", ["genevalpp", "imgedit", "gedit", "t2i_reasonbench"])
def test_nonsense_and_a_missing_image_are_nothing_scored(run, tmp_path, name):
    root, more = kit.SETS[name](tmp_path / "data"), ()
    if name in ("imgedit", "gedit"):  # their results are those of a folder, too
        suite = find_suite(name)
        cases = suite.cases(suite.options(data=root, allow_other_data=True), None)
        for number, case in enumerate(cases):
            kit.draw(root / "results" / suite.layout(case, suite.options(data=root, allow_other_data=True))[0], number)
        more = ("--model", f"folder:{root / 'results'}")
    else:
        kit.results(root / "results", name)
    next((root / "results").rglob("*.*g")).unlink()
    code, headline, _, err, _ = run(name, *more, rule=lambda words: "what a nice day")
    assert (code, headline["overall"], "Traceback" in err) == (1, None, False), err
    assert f"{name}: nothing was scored: expected judged images, and all judgements failed: " in err


def test_a_budget_that_is_too_small_for_one_request_is_one_line(run, tmp_path):
    price = ("--judge-price", "2", "8", "--max-spend", "0.009")
    code, _, _, err, requests = run("wise", *price)
    assert (code, requests) == (2, [])
    told = "nothing is asked: one request may cost 0.0100 USD, and --max-spend is 0.009"  # 3000 tokens in, 500 out
    assert [line for line in err.splitlines() if not line.endswith("to do")] == [f"wise: error: {told}"]


def test_missing_images_are_missing_and_not_0(run, tmp_path):
    root = kit.wise(tmp_path / "data")
    kit.results(root / "results", "wise")
    (root / "results" / "3.png").unlink()
    code, headline, _, err, _ = run("wise")
    assert (code, headline["images"], headline["missing"]) == (0, 11, 1)
    assert (headline["overall"], headline["metrics"]["overall"]) == (None, None)  # one of twelve is more than 5 %
    assert headline["bounds"] == [pytest.approx(11 / 12), 1.0]
    assert "1 of 12 images is missing (3)" in err


def test_rewritten_prompts_are_drawn_and_the_original_is_judged(run, tmp_path):
    rewritten = tmp_path / "rewritten.json"
    rewritten.write_text(json.dumps({str(i): f"better words {i}" for i in range(1, 13)}))
    code, headline, out, _, requests = run("wise", "--rewritten-from", rewritten)
    assert (code, headline["rewritten_from"]) == (0, str(rewritten))
    assert all("hints at" in kit.texts_of(one) and "better words" not in kit.texts_of(one) for one in requests)
    assert "prompts rewritten" in out
    lines = (tmp_path / "run" / "results.jsonl").read_text().splitlines()
    line = json.loads(lines[0])
    assert (line["prompt"], json.loads(line["metadata"])["prompt"]) == ("better words 1", "what number 1 hints at")
    assert reports.main([str(tmp_path / "run"), "--output", str(tmp_path / "report")]) == 0
    assert "drawn from rewritten prompts (rewritten.json)" in (tmp_path / "report" / "report.md").read_text()
    rewritten.write_text('{"1": "only one"}')
    shutil.rmtree(tmp_path / "run")
    assert "no prompt for case 2" in run("wise", "--rewritten-from", rewritten)[3]


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("a.json", '{"1": "better", "2": 3}', "expected one prompt for case 2 but got 3"),
        ("a.json", '{"1": "better", "1": "best"}', "'1' occurs twice"),
        ("a.jsonl", '{"id": 1, "prompt": "better"}\n' * 2, "expected one prompt for case 1 but got a second prompt"),
        ("a.json", "[]", "but found none"),
        ("a_rewritten.json", "[]", "expected *_rewrite.json in the folder"),
    ],
)
def test_rewritten_prompts_that_do_not_fit_are_one_line(run, tmp_path, file, content, words):
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / file).write_text(content)
    path = tmp_path / "given" / ("" if "rewritten" in file else file)
    code, _, _, err, requests = run("wise", "--rewritten-from", path)
    assert (code, err.count("\n"), requests) == (2, 1, []), err
    assert words in err


def test_rewritten_prompts_of_wise_are_taken_as_they_come_and_read_once(run, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(suite, "load_json", lambda path: read.append(path) or load_json(path))
    for part in (range(1, 7), range(7, 13)):
        rows = [{"prompt_id": i, "Prompt": f"better words {i}", "Category": "any"} for i in part]
        kit.write(tmp_path / "rewritten" / f"from_{part[0]}_rewrite.json", rows)
    code, *_ = run("wise", "--rewritten-from", tmp_path / "rewritten")
    lines = [json.loads(line) for line in (tmp_path / "run" / "results.jsonl").read_text().splitlines()]
    assert (code, [line["prompt"] for line in lines]) == (0, [f"better words {i}" for i in range(1, 13)])
    assert len(read) <= 2 * 2  # two files, by as many looks at the cases


@pytest.mark.parametrize("name", ["", "natural_science_rewrite.json"])
def test_rewritten_prompts_of_the_other_edition_of_wise_are_refused(run, tmp_path, name):
    for part in wise.PARTS:
        rows = [{"prompt_id": i, "Prompt": f"better words {i}"} for i in range(1, 13)]
        kit.write(tmp_path / "legacy" / f"{part}_rewrite.json", rows)
    code, _, _, err, requests = run("wise", "--rewritten-from", tmp_path / "legacy" / name)
    assert (code, err.count("\n"), requests) == (2, 1, [])
    assert "has the legacy edition's prompts, of other ids; --edition legacy" in err


def test_the_merged_file_of_kris_is_known_by_its_hash_and_not_by_its_numbers(tmp_path, monkeypatch):
    root, suite = kit.kris(tmp_path / "data"), find_suite("kris")
    rows = [
        {"id": "1", "type": path.parent.name, **json.loads(path.read_text())["1"]}
        for path in sorted(root.rglob("annotation.json"))
    ]
    merged = kit.write(root / "KRIS_Bench" / kris.MERGED, rows)
    cases = {"any": {row["type"]: 1 for row in rows}}  # as many as are published
    monkeypatch.setattr(kris.Kris, "origin", dataclasses.replace(suite.origin, cases=cases))
    with pytest.raises(UserError, match=r"final_data.json: sha256 .* --allow-other-data"):
        suite.load(root, suite.options(data=root))
    origin = dataclasses.replace(suite.origin, sha256={kris.MERGED: sha256(merged)})
    monkeypatch.setattr(kris.Kris, "origin", origin)
    assert suite.load(root, suite.options(data=root)).edition == "kris-1267"


def test_an_export_without_any_image_says_so(run, tmp_path, capsys):
    run("imgedit")
    for path in (tmp_path / "run").rglob("*.png"):
        path.unlink()
    assert exported.main([str(tmp_path / "run"), str(tmp_path / "out")]) == 1
    assert "none of its 12 is there" in capsys.readouterr().err


def test_published_wording_is_parsed_never_run_and_refused_until_it_is_named(run, tmp_path):
    root = kit.wise(tmp_path / "data")
    (root / "vllm_eval.py").write_text(kit.WISE_SCRIPT)
    ours = run("wise", "--limit", "1")
    assert ours[1]["wording"] == "ours"
    shutil.rmtree(tmp_path / "run")
    code, _, _, err, _ = run("wise", "--limit", "1", "--wording", "published")
    assert code == 2
    digest = err.partition("--wording published:")[2].split()[0]
    code, headline, _, _, requests = run(
        "wise", "--limit", "1", "--wording", f"published:{digest}", rule=lambda words: "Score: 1"
    )
    assert (code, headline["wording"]) == (0, "published")
    assert "-published/" in headline["metric"]
    assert headline["metric"] != ours[1]["metric"]
    system, asked = requests[0]["messages"]
    assert system["content"] == "Be the judge of this."
    assert asked["content"][0]["text"].startswith("Look {here}.\nP: what number 1 hints at\nE: it is 1")


def test_a_row_that_is_no_object_is_named_with_its_place(run, tmp_path):
    path = kit.SETS["wise"](tmp_path / "data") / "data_verified" / "natural_science_verified.json"
    path.write_text(json.dumps([*json.loads(path.read_text()), "stray"]))
    code, _, _, err, _ = run("wise")
    assert code == 2
    assert 'natural_science_verified.json: expected an object as row 7 but got "stray"' in err


def test_a_folder_of_other_names_is_told_the_place_where_the_official_script_looks(run, tmp_path):
    kit.draw(tmp_path / "mine" / "first.png", 1)
    code, _, _, err, _ = run("kris", "--model", f"folder:{tmp_path / 'mine'}")
    assert code == 1
    assert "nothing was scored: expected 12 images with a score, found none" in err
    assert f"expected {tmp_path / 'mine'}/count_change/1.jpg, or {tmp_path / 'mine'}/count_change-1/samples/0000" in err
    (tmp_path / "mine" / "first.png").unlink()
    _, _, _, err, _ = run("kris", "--model", f"folder:{tmp_path / 'mine'}", "--output", tmp_path / "other")
    assert f"no images there; expected {tmp_path / 'mine'}/count_change/1.jpg, or " in err


@pytest.mark.parametrize("judge", ["measured", "gpt-4.1"])
def test_a_judge_that_answers_no_questions_is_refused_with_those_that_do(run, judge):
    code, _, _, err, _ = run("kris", "--judge", judge)
    assert (code, err.count("\n")) == (2, 1)
    assert f"needs --judge, one of openai[:MODEL], hf:PATH|ID; it is {judge}" in err


def test_few_edits_are_not_spoken_of_as_prompts(run):
    _, _, _, err, _ = run("rise", rule=lambda words: "Final Score: 1")  # right in logic, the least elsewhere
    assert " edits make an interval of " in err
    assert "more edits narrow it" in err
