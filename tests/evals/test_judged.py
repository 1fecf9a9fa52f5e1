"""The judged benchmarks from end to end: small sets of their schema, a server that answers as their judges do."""

import dataclasses
import json
import re
import shutil

import judged_kit as kit
import pytest
from judge_kit import fails, serve
from PIL import Image
from vlm_kit import build

from evals import imgedit, judge_agreement, wise
from evals.harness import cli
from evals.harness.run_spec import find_suite
from evals.judged import __main__ as exported
from evals.judges.comparability import COMPARABLE, UNKNOWN
from got.util.files import sha256
from reports import __main__ as reports
from reports import judged
from reports.frames import load
from reports.samples import load_samples
from reports.tables import Column, Table


def shown(request):
    """Labels and images of a request, in order, without the question."""
    content = request["messages"][-1]["content"]
    return [part["text"][:12] if part["type"] == "text" else "image" for part in content]


@pytest.mark.parametrize(
    ("name", "words", "overall", "images"),
    [
        ("wise", (), 1.0, 12),
        ("genevalpp", (), 1.0, 8),
        ("imgedit", (), 4.0, 12),
        ("imgedit", ("--reading", "scripted"), 4.0, 12),
        ("gedit", (), 4.0, 12),
        ("gedit", ("--language", "cn", "--subset", "intersection", "--backbone", "qwen"), 4.0, 6),
        ("rise", (), 1.0, 12),
        ("kris", (), 75.0, 12),
        ("t2i_reasonbench", (), 0.75, 12),
    ],
)
def test_each_benchmark_asks_reads_and_sums_up(run, name, words, overall, images):
    code, headline, out, err, requests = run(name, *words)
    assert (code, headline["images"], headline["missing"], headline["failed"]) == (0, images, 0, {}), err
    assert headline["overall"] == pytest.approx(overall)
    assert headline["metric"].startswith(f"{headline['edition']}-ours/")
    assert headline["metric"].partition("@")[2].startswith("judge-1#")
    assert "floor" in out
    assert headline["floor"]["n"] > 0
    assert requests


def test_wise_legacy_grades_in_three_lines(run, tmp_path):
    code, headline, _, _, requests = run(
        "wise", "--edition", "legacy", make=lambda root: kit.wise(root, "legacy"), rule=kit.official
    )
    assert (code, headline["overall"]) == (0, pytest.approx((0.7 * 2 + 0.2 * 1) / 2))
    assert requests[0]["max_tokens"] == 2000
    assert "chat_template_kwargs" not in requests[0]


def test_imgedit_uge_has_one_grade(run):
    code, headline, *_ = run("imgedit", "--edition", "uge", make=lambda root: kit.imgedit(root, "uge"))
    assert (code, headline["overall"], headline["edition"][:12]) == (0, 4.0, "imgedit-uge-")


def test_requests_are_as_the_official_scripts_send_them(run):
    _, _, _, _, requests = run("wise", "--limit", "6", "--floor", "0")
    first = requests[0]
    assert (first["temperature"], first["max_tokens"]) == (0, 500)
    assert first["chat_template_kwargs"] == {"enable_thinking": False}
    assert [turn["role"] for turn in first["messages"]] == ["system", "user"]
    assert shown(first)[1:] == ["image"]
    assert len(requests) == 6


def test_gedit_shows_source_and_result_then_the_result_in_the_source_s_size(run):
    *_, requests = run("gedit", "--limit", "1", "--floor", "0")
    requests.sort(key=lambda request: -len(shown(request)))  # both are asked at once
    assert [shown(request)[1:] for request in requests] == [["image", "image"], ["image"]]
    assert all("temperature" not in request for request in requests)
    assert kit.sizes(requests[0]) == [(48, 32), (48, 32)]  # drawn from the raw image, of 96 x 64
    assert requests[0]["messages"][0]["content"][1]["image_url"]["url"].startswith("data:image/jpeg")


def test_rise_asks_by_what_a_case_has(run):
    """Counts of images by call, for the twelve kinds of cases of the small set."""
    *_, requests = run("rise", "--floor", "0")
    words = [kit.texts_of(request) for request in requests]
    # Two cases are free of consistency, and logical ones have no plausibility.
    assert len(requests) == 12 * 3 - 2 - 3
    assert sum("Does it show the right answer" in text for text in words) == 1
    assert all(request["messages"][0]["content"][1]["image_url"]["detail"] == "high" for request in requests)


def test_kris_labels_its_images_and_puts_the_predicted_frame_in_its_place(run):
    *_, requests = run("kris", "--floor", "0")
    frames = [shown(request) for request in requests if "four frames" in kit.texts_of(request)]
    assert frames[0][1:] == ["Frame 1 (giv", "image", "Frame 2 (pre", "image", "Frame 3 (giv", "image",
                             "Frame 4 (giv", "image"]  # fmt: skip
    truths = [shown(request) for request in requests if "Ground truth" in kit.texts_of(request)]
    assert truths[0].count("image") == 3
    assert len(requests) == 36


def test_t2i_reasonbench_describes_first_and_weighs_groups(run):
    def rule(words):
        if "Describe this image" in words and "qN" not in words:
            return "A plain image."
        return '{"reason": [], "score": [1, 1]}' if "qN" in words else "?"

    *_, requests = run("t2i_reasonbench", "--tasks", "entity", "--limit", "1", "--floor", "0", rule=rule)
    assert [len(request["messages"]) for request in requests] == [1, 3, 3, 3]
    assert requests[2]["messages"][:2] == requests[1]["messages"][:2]
    assert [part["type"] for part in requests[0]["messages"][0]["content"]] == ["image_url", "text"]


# ------------------------------------------------------------------------------------------------- failures, and resume
def test_a_reply_of_the_wrong_length_is_missing_and_bounds_say_how_far_it_matters(run):
    def rule(words):
        return '{"score": [9]}' if re.search(r"do edit 3\b", words) else kit.official(words)

    code, headline, out, *_ = run("gedit", "--judge-max-failed", "1", "--floor", "0", rule=rule)
    assert code == 0
    assert (headline["missing"], headline["failed"]) == (1, {"unparsable": 1})
    low, high = headline["bounds"]
    assert low == pytest.approx(4 * 10 / 11)
    assert high == pytest.approx((4 * 10 + 10) / 11)
    assert "failed: 1 × unparsable" in out


def test_above_five_percent_of_failures_there_is_no_headline(run, tmp_path):
    rule = lambda words: "I'm sorry, I can't help with that." if "number 3 hints" in words else "Score: 1"  # noqa: E731
    code, headline, out, *_ = run("wise", rule=rule)
    assert (code, headline["overall"], headline["interval_95"], headline["metrics"]["overall"]) == (0, None, None, None)
    assert headline["failed"] == {"refusal": 1}
    assert headline["no_headline"] == "too many images without a score: 1 of 12"
    assert (
        "no headline: too many images without a score: 1 of 12; --judge-max-failed 1 shows it all the same"
        in " ".join(out.split())
    )
    row = next(line for line in out.splitlines() if line.split()[:1] == ["all"])
    assert row.split() == ["all", "–", "–", "11", "1", "0.917–1.000"]
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    whole = [scores["images"], scores["overall"]["score"], scores["overall"]["prompts_any"],
             scores["overall"]["values"]["score"], scores["metrics"]["all"]["overall"]]  # fmt: skip
    assert [one["value"] for one in whole] == [None] * 5, "of all images there is no number"
    del scores["judge"]["no_headline"]  # as in a run of before
    scores["metrics"]["all"]["overall"]["value"] = 1.0
    before = find_suite("wise").headline(scores)
    assert (before["overall"], before["no_headline"]) == (None, "too many images without a score")
    told = run("wise", "--judge-max-failed", "1", "--from", "verdict")[1]
    assert (told["overall"], told["metrics"], told["bounds"]) == (1.0, {"overall": 1.0}, headline["bounds"])
    assert "no_headline" not in told


def test_a_report_says_why_there_is_no_headline_and_where_it_would_lie(run, tmp_path):
    rule = lambda words: "no idea" if re.search(r"do edit [36]\b", words) else kit.official(words)  # noqa: E731
    assert run("imgedit", "--floor", "0", rule=rule)[0] == 0
    assert reports.main([str(tmp_path / "run"), "--output", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "report.md").read_text()
    said = "has no headline: too many images without a score: 2 of 12; --judge-max-failed 1 shows it all the same."
    assert said in page
    assert "2 images have no score; with them the score lies between 3." in page
    assert re.search(r"n = 10 images of \d+ source images, ", page)


def test_a_question_that_always_fails_hides_the_overall_of_kris(run):
    def rule(words):
        return "no idea" if "instruction_score" in words else kit.official(words)

    code, headline, out, *_ = run("kris", "--floor", "0", rule=rule)
    assert (code, headline["overall"], headline["missing"]) == (0, None, 12)
    low, high = headline["bounds"]
    assert 0 < low < high < 100
    assert headline["metrics"]["overall"] is None
    assert "too many images without a score: 12 of 12" in out


def test_of_the_floors_of_two_runs_none_is_the_best(run, tmp_path):
    assert run("wise")[0] == 0
    (one,), _ = load([tmp_path / "run"])
    scores = json.loads(json.dumps(one.scores))
    scores["metrics"]["floor"]["overall"]["value"] = 0.25
    table = judged.judged_table([one, dataclasses.replace(one, path=tmp_path / "other", scores=scores)])
    floors = [row for row in table.rows if row.label.endswith(", floor")]
    assert [(row.cells[0].value, table.best(row, 0)) for row in floors] == [(1.0, False), (0.25, False)]


def test_the_floor_counts_the_images_that_have_a_value(run):
    rule = lambda words: "no idea" if "number 1 hints" in words else "Score: 1"  # noqa: E731
    _, headline, out, *_ = run("wise", "--judge-max-failed", "1", rule=rule)
    assert headline["floor"]["n"] == 5
    assert "of cases of" not in " ".join(out.split())


@pytest.mark.parametrize("words", [("--judge-max-tokens", "77"), ("--judge-extra", '{"top_p": 0.5}')])
def test_how_a_question_is_sent_is_part_of_the_metric_s_name(run, tmp_path, words):
    usual = run("wise", "--limit", "1", "--floor", "0")[1]["metric"]
    other = run("wise", "--limit", "1", "--floor", "0", "--output", tmp_path / "other", *words)[1]["metric"]
    assert other.partition("#")[0] == usual.partition("#")[0]
    assert other != usual


@pytest.mark.parametrize(("name", "flag"), [("rise", "--wording-by-row"), ("kris", "--anomaly-question")])
def test_other_questions_are_another_edition_beside_which_no_reported_row_stands(run, tmp_path, name, flag):
    usual = run(name, "--limit", "1", "--floor", "0")[1]
    other = run(name, "--limit", "1", "--floor", "0", "--output", tmp_path / "other", flag)[1]
    assert other["edition"] != usual["edition"]
    assert other["metric"] != usual["metric"]
    published = {"rise": "risebench-360{}-2026.04", "kris": "kris-1267{}"}[name]
    suite, mark = find_suite(name), {"rise": "-by-row", "kris": "-anomaly"}[name]
    assert mark in other["edition"]
    assert suite.reported(published.format(""))
    assert not suite.reported(published.format(mark))


@pytest.mark.parametrize("name", ["gedit", "kris"])
def test_two_unlike_sets_without_published_hashes_have_two_editions(name, tmp_path):
    suite, root = find_suite(name), kit.SETS[name](tmp_path / "data")
    options = suite.options(data=root, allow_other_data=True)
    first = suite.load(root, options).edition
    assert first == suite.load(root, options).edition
    if name == "gedit":
        import pyarrow.parquet

        path = next(root.glob("*.parquet"))
        rows = pyarrow.parquet.read_table(path).to_pylist()
        rows[0]["instruction"] += " at once"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path = root / "KRIS_Bench/biology/annotation.json"
        path.write_text(path.read_text().replace("do edit", "do now edit"))
    assert suite.load(root, options).edition != first


def test_an_edit_of_gedit_without_its_image_is_one_line(run, tmp_path):
    import pyarrow.parquet

    path = next(kit.gedit(tmp_path / "data").glob("*.parquet"))
    rows = pyarrow.parquet.read_table(path).to_pylist()
    rows[3]["input_image"] = {"bytes": b"", "path": None}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    code, _, _, err, requests = run("gedit")
    assert (code, err.count("\n"), requests) == (2, 1, [])
    assert "row 3: no image in column input_image" in err


def merged(root):
    """KRIS as BAGEL has it: one list of all categories beside their folders of images."""
    rows = []
    for path in sorted((root / "KRIS_Bench").glob("*/annotation.json")):
        rows += [{"id": id, "type": path.parent.name, **row} for id, row in json.loads(path.read_text()).items()]
        path.unlink()
    kit.write(root / "KRIS_Bench" / "final_data.json", rows)


def moved(name, place):
    def move(root):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / name).rename(root / place)

    return move


FORMS = {
    "kris": merged,
    "rise": moved("datav2_total_w_subtask.json", "data/data_total.json"),
    "genevalpp": moved("test_scripts/Geneval++.jsonl", "Geneval++.jsonl"),
    "wise": moved("data_verified/natural_science_verified.json", "natural_science_verified.json"),
    "t2i_reasonbench": moved("prompts/entity_reasoning.json", "entity_reasoning.json"),
}


@pytest.mark.parametrize("name", FORMS)
def test_data_that_lie_in_another_published_form_are_the_same_items(tmp_path, name):
    suite, root = find_suite(name), kit.SETS[name](tmp_path / "data")
    options = suite.options(data=root, allow_other_data=True)
    first = suite.load(root, options).items
    FORMS[name](root)
    again = suite.load(root, options).items
    assert {item.id: item.as_case() for item in first} == {item.id: item.as_case() for item in again}
    for one, other in zip(sorted(first, key=lambda x: x.id), sorted(again, key=lambda x: x.id), strict=True):
        assert {role: image.load().getpixel((0, 0)) for role, image in one.images.items()} == {
            role: image.load().getpixel((0, 0)) for role, image in other.images.items()
        }


def test_edits_of_one_image_of_gedit_are_one_group(tmp_path):
    suite, root = find_suite("gedit"), kit.gedit(tmp_path / "data")
    sets = [
        suite.load(root, suite.options(data=root, allow_other_data=True, language=language))
        for language in ("en", "cn")
    ]
    groups = [[item.group for item in one.items] for one in sets]
    assert groups[0] == groups[1]
    assert len(set(groups[0])) == len(groups[0]) == 12


def test_a_run_without_any_answer_is_never_a_success(run):
    code, headline, _, err, _ = run("wise", rule=lambda words: "no idea")
    assert code == 1
    assert "nothing was scored" in err
    assert headline["overall"] is None


def test_the_same_command_asks_again_for_what_had_no_answer_and_nothing_else(run):
    busy = [True]

    def script(request):
        late = busy[0] and "number 3 hints" in kit.texts_of(request)
        return fails(429, Retry_After="3600") if late else kit.answers(kit.official)(request)

    with serve(script) as endpoint:
        words = ("--floor", "0", "--judge-max-failed", "1")
        first = run("wise", *words, endpoint=endpoint)
        busy[0], asked = False, len(endpoint.requests)
        second = run("wise", *words, "--from", "observe", endpoint=endpoint)
    assert (first[0], first[1]["failed"], first[1]["missing"]) == (0, {"rate limit": 1}, 1)
    assert (second[0], second[1]["failed"], second[1]["missing"]) == (0, {}, 0)
    assert len(endpoint.requests) - asked == 1


def test_repeats_and_a_later_rule_are_read_from_the_log(run, tmp_path):
    answers = iter(range(1000))

    def rule(words):
        sure = re.search(r"do edit [01]\b|could be real", words)
        return f"Final Score: {5 if sure else 4 + next(answers) % 2}" if "From 1 to 5" in words else "Final Score: 1"

    code, headline, out, *_ = run("rise", "--judge-repeats", "3", rule=rule)
    assert code == 0
    assert "own spread over 3 repeats" in out
    first = headline["overall"]
    code, headline, _, _, requests = run("rise", "--from", "verdict", "--script", "2025", script=fails(500))
    assert (code, requests, headline["edition"][-4:]) == (0, [], "2025")
    assert headline["overall"] == pytest.approx(first - 2 / 12)  # the two cases without consistency


def test_a_finished_run_is_scored_again_and_exported_where_nothing_names_its_judge(run, tmp_path, monkeypatch, capsys):
    _, before, *_ = run("rise")
    for name in ("JUDGE_MODEL", "OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    again = ["--output", str(tmp_path / "run"), "--from", "verdict"]
    assert cli.main(find_suite("rise"), again) == 0
    after = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert (after["metric"], after["overall"]) == (before["metric"], before["overall"])
    assert exported.main([str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert cli.main(find_suite("rise"), [*again, "--judge", "openai"]) == 2
    assert "set JUDGE_MODEL" in capsys.readouterr().err


def test_two_judges_of_the_same_images_are_held_against_each_other(run, tmp_path, capsys):
    run("wise", "--judge-log", tmp_path / "a")
    strict = lambda words: f"Score: {int('number 3 hints' not in words)}"  # noqa: E731
    run("wise", "--judge-log", tmp_path / "b", "--output", tmp_path / "other", rule=strict)
    words = ["--between", str(tmp_path / "run"), str(tmp_path / "other")]
    assert judge_agreement.main(words) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["images"], found["equal"]) == (12, pytest.approx(11 / 12))
    assert found["shift"]["value"] == pytest.approx(-1 / 12)
    assert found["verdict"].startswith("not known")
    # Twelve images that are all judged alike do not exclude a shift of 2 %, but one of a quarter.
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    for margin, verdict in (("0.02", UNKNOWN), ("0.25", COMPARABLE)):
        words = ["--between", str(tmp_path / "run"), str(tmp_path / "copy"), "--margin", margin]
        assert judge_agreement.main(words) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["verdict"] == verdict
    assert judge_agreement.main(["--between", str(tmp_path / "run"), str(tmp_path)]) == 2
    assert "no finished run" in capsys.readouterr().err
    assert judge_agreement.main(["--between", str(tmp_path / "run"), f"{tmp_path}/./run"]) == 2
    assert "expected two runs but got one twice" in capsys.readouterr().err


def test_a_report_keeps_editions_apart_and_names_the_judge(run, tmp_path, capsys):
    _, headline, *_ = run("imgedit")
    (loaded,), _ = load([tmp_path / "run"])
    samples = load_samples(loaded)
    assert {sample.outcome for sample in samples} == {"judged"}
    assert {sample.judge_score for sample in samples} == {0.75}  # 4 of 1 to 5
    assert samples[0].reason == "overall 4.00, capped 4.00, exceeds 0.00"
    with Image.open(samples[0].source) as source:  # beside the result, without the data
        assert source.size == (64, 48)
    run("imgedit", "--reading", "scripted", "--output", tmp_path / "scripted")
    runs = [str(tmp_path / "run"), str(tmp_path / "scripted")]
    assert reports.main([*runs, "--output", str(tmp_path / "report")]) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    for words in (
        f"edition {loaded.scores['edition']},",
        f"edition {loaded.scores['edition']}-scripted,",
        headline["judge"].partition("#")[2],
        ", floor |",
    ):
        assert words in text
    assert "n = 12 images" in text
    own = headline["judge"].partition("#")[2]
    assert all(line.startswith("- ") for line in text.splitlines() if own in line), "hashes stand in the notes alone"
    assert not any(own in file.name for file in (tmp_path / "report").rglob("*"))
    capsys.readouterr()
    assert reports.main(["table", *runs]) == 2
    assert "share no table" in capsys.readouterr().err


def test_edits_of_one_image_are_drawn_together_where_two_judges_are_compared(run, tmp_path, capsys):
    run("imgedit", "--judge-log", tmp_path / "a")
    run("imgedit", "--judge-log", tmp_path / "b", "--output", tmp_path / "other")
    words = ["--between", str(tmp_path / "run"), str(tmp_path / "other")]
    assert judge_agreement.main(words) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["images"], found["shift"]["clusters"]) == (12, 3)
    assert judge_agreement.main([*words, "--margin", "2"]) == 2
    assert "expected a number from 0 to 1 but got 2" in capsys.readouterr().err


@pytest.fixture
def published(tmp_path, monkeypatch):
    """The small set of WISE stands for the published one."""
    root = kit.wise(tmp_path / "data")
    hashes = {path.name: sha256(path) for path in (root / "data_verified").iterdir()}
    monkeypatch.setattr(wise.Wise, "origin", dataclasses.replace(wise.Wise().origin, sha256=hashes))


def test_reported_rows_stand_beside_the_published_data_and_say_in_what_a_run_differs(run, published, tmp_path, capsys):
    _, _, out, *_ = run("wise", "--limit", "6")
    said = " ".join(out.split())
    for words in ("Reported by others, not measured here", "this run does not compare with them: 6 of 12 prompts; "
                  "asked in our wording; judged by judge-1, they by Qwen3.5-35B-A3B", "DeepGen 1.0"):  # fmt: skip
        assert words in said
    assert any(line.strip().startswith("12 of 23") for line in out.splitlines())
    runs = [str(tmp_path / "run")]
    assert reports.main([*runs, "--output", str(tmp_path / "report")]) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    for words in ("| NanoBanana-Pro † | photographs, reported | Qwen3.5-35B-A3B | **0.8760** |",
                  "| judge-1, our wording |", "encoder none",
                  "- † as reported by others of Verified 2026-04, not measured here, 12 of 23",
                  "- DeepGen 1.0 †: its parts give 0.56720, not its 0.5700.",
                  " and † do not compare: 6 of 12 prompts; asked in our wording; judged by judge-1, they"):  # fmt: skip
        assert words in text
    assert reports.main([*runs, "--output", str(tmp_path / "report"), "--published", "none"]) == 0
    assert "†" not in (tmp_path / "report" / "report.md").read_text().partition("## ")[2]


def test_the_best_reported_number_is_that_of_one_judge():
    rows = [judged._reported(row, ["overall"]) for row in imgedit.ImgEdit().reported("imgedit-basic")]
    columns = [Column(key="judge", title="judge", best=None), Column(key="overall", title="overall", digits=2)]
    table = Table(name="t", caption="", columns=tuple(columns), rows=tuple(rows))
    best = [(row.cells[0].text, row.cells[1].value) for row in rows if table.best(row, 1)]
    assert {judge for judge, _ in best} == {"gpt-4.1", "not stated"}
    assert dict(best)["gpt-4.1"] == 4.2 < dict(best)["not stated"]


def test_a_run_as_the_reported_ones_says_nothing_of_differences(run, published, tmp_path, monkeypatch):
    (tmp_path / "data" / "vllm_eval.py").write_text(kit.WISE_SCRIPT)
    digest = run("wise", "--wording", "published")[3].partition("--wording published:")[2].split()[0]
    monkeypatch.setenv("JUDGE_MODEL", "Qwen3.5-35B-A3B")
    _, _, out, *_ = run("wise", "--wording", f"published:{digest}", "--judge", "openai:Qwen/Qwen3.5-35B-A3B",
                        rule=lambda words: "Score: 1")  # fmt: skip
    assert "Reported by others" in out
    assert "does not compare" not in out


@pytest.mark.parametrize(
    ("name", "words"),
    [*((name, ()) for name in kit.SETS), ("imgedit", ("--edition", "uge")), ("wise", ("--edition", "legacy")),
     ("gedit", ("--language", "cn", "--subset", "intersection"))],
)  # fmt: skip
def test_images_go_out_in_the_official_layout_and_come_back_from_it(run, tmp_path, name, words):
    edition = {"edition": words[1]} if "--edition" in words else {}
    _, before, *_ = run(name, *words, make=lambda root: kit.SETS[name](root, **edition))
    assert exported.main([str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    if name == "gedit":
        key = "cn/cn04" if words else "en/en04"
        assert (tmp_path / f"out/fullset/ps_human/{key}_SRCIMG.png").is_file()
    again = ("--model", f"folder:{tmp_path / 'out'}", "--output", tmp_path / "again")
    code, after, _, err, _ = run(name, *words, *again)
    assert (code, after["images"], after["missing"]) == (0, before["images"], 0), err
    assert after["overall"] == before["overall"]


def test_a_model_on_this_machine_judges_by_the_same_rules(run, tmp_path):
    folder = build(tmp_path / "judge-vl", "Score: 1")
    code, headline, *_ = run("wise", "--judge", f"hf:{folder}", "--floor", "0")
    assert (code, headline["overall"], headline["images"]) == (0, 1.0, 12)
    assert "@judge-vl-" in headline["judge"]
