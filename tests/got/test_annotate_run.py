"""A run of annotation: killed and resumed, out of money, set up wrongly."""

import json
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from annotate_kit import FAST, Truth, annotate, arguments, drawings, lines
from judge_kit import crowded, fails, says, serve, together
from PIL import Image

from got.data import storage
from got.data.__main__ import main
from got.data.annotate.command import examples_of, run
from got.data.annotate.prompts import PROMPTS, STAGES
from got.data.records import DataError
from got.util.errors import UserError
from got.vlm.clients import SetupError


# A folder has every sample at once; a Parquet file that is not full yet is lost, but not its replies.
@pytest.mark.parametrize("format", ["folder", "parquet"])
def test_after_kill_9_the_same_command_goes_on_and_no_reply_is_paid_twice(tmp_path, format):
    truth = Truth("unit")
    found, place = drawings(truth, tmp_path / "in", 10)
    replies = tmp_path / "out" / "replies.jsonl"

    def logged():
        return replies.read_bytes().count(b"\n") if replies.exists() else 0

    def held(request):
        """Answers until so many replies are logged; who asks then has its answer when the command has been killed."""
        if logged() >= wanted:
            killed.wait(60)
        return truth(request)

    with serve(held) as endpoint:
        words = [
            "annotate",
            str(place),
            "--output",
            str(tmp_path / "out"),
            "--model",
            "vl-1",
            "--concurrency",
            "3",
            "--format",
            format,
        ]
        kills = 0
        for wanted in (7, 19):
            killed = threading.Event()
            process = subprocess.Popen([sys.executable, "-m", "got.data", *words, "--endpoint", endpoint.url, *FAST])
            while process.poll() is None and logged() < wanted:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
            killed.set()
        with replies.open("a") as file:
            file.write('{"key": "cut o')
        counts = annotate(place, tmp_path / "out", endpoint, *FAST, "--concurrency", "3", "--format", format)
    assert kills == 2
    assert (counts["accepted"], counts["failed"]) == (10, {})
    assert {example.id for example in storage.read(tmp_path / "out")} == found.keys()
    keys = [(line["sample"], line["key"]) for line in lines(replies)]
    assert len(keys) == len(set(keys)) == counts["replies"]
    assert len(endpoint.requests) - len(keys) <= 2 * 3  # requests under way when the process died, no more
    with serve(fails(500)) as endpoint:
        again = annotate(place, tmp_path / "out", endpoint, *FAST, "--format", format)
    assert (again["accepted"], again["accepted_now"], endpoint.requests) == (10, 0, [])


def test_the_command_prints_counts_and_writes_a_dataset_that_passes_every_check(tmp_path, capsys):
    truth = Truth("unit")
    _, place = drawings(truth, tmp_path / "in", 2)
    with serve(truth) as endpoint:
        words = [
            "annotate",
            str(place),
            "--output",
            str(tmp_path / "out"),
            "--model",
            "vl-1",
            "--endpoint",
            endpoint.url,
        ]
        assert main([*words, *FAST]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["accepted"] == 2
        assert main([*words, "--boxes", "pixels"]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert main(["check", str(tmp_path / "out")]) == 0


def test_annotation_without_an_accepted_example_ends_with_1(tmp_path, capsys):
    _, place = drawings(Truth("unit"), tmp_path / "in", 1)
    with serve(says("no idea")) as endpoint:
        words = [
            "annotate",
            str(place),
            "--output",
            str(tmp_path / "out"),
            "--model",
            "vl-1",
            "--endpoint",
            endpoint.url,
        ]
        assert main([*words, *FAST, "--attempts", "1"]) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["accepted"] == 0


def test_tokens_and_money_are_counted_and_the_limit_holds_over_several_runs(tmp_path):
    truth = Truth("unit")
    _, place = drawings(truth, tmp_path / "in", 6)
    price = ("--price", "1000", "2000", "--concurrency", "1")  # a reply of 1000 and 50 tokens costs 1.1
    with serve(truth) as endpoint:
        counts = annotate(place, tmp_path / "out", endpoint, *FAST, *price, "--max-spend", "12")
        assert counts["usd"] == pytest.approx(1.1 * counts["replies"])
        assert 5 <= counts["usd"] <= 12
        assert counts["tokens_in"] == 1000 * counts["replies"]
        assert any(name.endswith("budget") for name in counts["failed"])
        asked = len(endpoint.requests)
        annotate(place, tmp_path / "out", endpoint, *FAST, *price, "--max-spend", "12")
        assert len(endpoint.requests) == asked
        rest = annotate(place, tmp_path / "out", endpoint, *FAST, *price)
    assert (rest["accepted"], rest["failed"]) == (6, {})
    assert rest["usd"] == pytest.approx(1.1 * rest["replies"])
    assert rest["replies"] == len(endpoint.requests) == 24


def test_no_more_samples_at_a_time_than_allowed(tmp_path):
    truth = Truth("unit")
    _, place = drawings(truth, tmp_path / "in", 6)

    def slow(request):
        time.sleep(0.03)
        return truth(request)

    with serve(together(3, slow)) as endpoint:
        annotate(place, tmp_path / "out", endpoint, *FAST, "--concurrency", "3")
    assert endpoint.most_at_once == 3


def test_an_output_belongs_to_one_model_and_one_convention(tmp_path):
    truth = Truth("unit")
    _, place = drawings(truth, tmp_path / "in", 1)
    with serve(truth) as endpoint:
        annotate(place, tmp_path / "out", endpoint, *FAST)
        with pytest.raises(DataError, match="was begun with boxes 'unit' but this is 'thousandths'"):
            annotate(place, tmp_path / "out", endpoint, "--boxes", "thousandths")
        other = arguments(place, tmp_path / "out", endpoint, *FAST, "--model", "vl-2")
        with pytest.raises(DataError, match="was begun with model 'vl-1' but this is 'vl-2'"):
            run(other)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--concurrency", "0"), "--concurrency: expected a whole number from 1 up but got 0"),
        (("--max-spend", "3"), "--max-spend needs --price"),
        (("--output", "in/out"), "--output: expected a folder outside in but got in/out"),
    ],
)
def test_a_wrong_set_up_is_one_line(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    with serve(fails(500)) as endpoint, pytest.raises((UserError, DataError), match=re.escape(message)):
        annotate("in", "out", endpoint, *FAST, *words)


def test_the_convention_of_boxes_has_no_default_and_an_endpoint_must_be_named(tmp_path, monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with serve(fails(500)) as endpoint:
        with pytest.raises(UserError, match="the following arguments are required: --boxes"):
            arguments("in", "out", endpoint)
        nowhere = arguments(tmp_path, tmp_path.with_name("out"), endpoint, *FAST)
    nowhere.endpoint = None
    with pytest.raises(SetupError, match="set OPENAI_API_KEY, or OPENAI_BASE_URL"):
        run(nowhere)


def test_every_stage_has_a_prompt_that_treats_texts_as_data():
    assert {path.stem for path in PROMPTS.glob("*.txt")} == set(STAGES)
    for stage in STAGES:
        text = (PROMPTS / f"{stage}.txt").read_text()
        assert "one JSON object" in text
        assert "never an order" in text or "never orders" in text
        assert re.findall(r"{{ (?:text|name|caption|instruction|before|after|step|kind) }}", text) in (
            [],
            ["{{ kind }}"],
        )


def test_images_with_names_of_any_script_have_ids_of_their_own(tmp_path):
    """Two animals; a blank beside an underscore is the one clash that is left, and is said before anything is asked."""
    for name in ("犬1.png", "猫1.png", "plain name.png"):
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    found = list(examples_of(tmp_path, pytest.fail))
    assert len({example.id for example in found}) == 3
    assert [example.provenance.origin for example in found] == ["plain name.png", "犬1.png", "猫1.png"]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", example.id) for example in found)
    Image.new("RGB", (32, 32)).save(tmp_path / "plain_name.png")
    with pytest.raises(DataError, match="expected another name"):
        next(examples_of(tmp_path, pytest.fail))


def test_an_output_is_checked_in_one_way(tmp_path):
    truth = Truth("unit")
    _, place = drawings(truth, tmp_path / "in", 2)
    with serve(truth) as endpoint:
        annotate(place, tmp_path / "out", endpoint, *FAST, "--min-iou", "0.5")
        with pytest.raises(DataError, match=r"was begun with min_iou 0\.5 but this is 0\.6; choose another --output"):
            annotate(place, tmp_path / "out", endpoint, *FAST, "--min-iou", "0.6")


def test_a_flipped_digit_in_a_log_of_annotation_is_named(tmp_path):
    truth = Truth("unit")
    _, place = drawings(truth, tmp_path / "in", 2)
    with serve(truth) as endpoint:
        annotate(place, tmp_path / "out", endpoint, *FAST, "--min-located", "1")
        for name in ("replies.jsonl", "pictures.jsonl", "annotate.json"):
            file = tmp_path / "out" / name
            whole = file.read_text()
            digit = re.search(r"(?<=[\[\", ])[1-8](?=\d)", whole)
            file.write_text(whole[: digit.start()] + "9" + whole[digit.end() :])
            with pytest.raises(
                UserError, match=rf"{re.escape(name)}( line [12])? is damaged: it is not as it was written"
            ):
                annotate(place, tmp_path / "out", endpoint, *FAST)
            file.write_text(whole)
        annotate(place, tmp_path / "out", endpoint, *FAST)


@pytest.mark.parametrize(
    "line", ['{"id": "s0"}', '{"id": 7, "reasons": ["a: b"]}', '{"id": "s0", "reasons": []}', "[]"]
)
def test_a_line_of_an_older_log_of_annotation_without_its_keys_is_named(tmp_path, line):
    truth = Truth("unit")
    _, place = drawings(truth, tmp_path / "in", 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "rejected.jsonl").write_text(f"{line}\n")
    with serve(truth) as endpoint, pytest.raises(UserError, match=r"rejected\.jsonl line 1 is damaged"):
        annotate(place, tmp_path / "out", endpoint, *FAST)


def test_a_rate_limit_of_one_example_holds_the_requests_of_all_others_back(tmp_path):
    """A server that takes two at a time and refuses more: every example is annotated, and few requests are refused."""
    truth = Truth("unit")
    _, place = drawings(truth, tmp_path / "in", 8)
    two, refused = crowded(2, truth, "40")
    with serve(two) as endpoint:
        counts = annotate(place, tmp_path / "out", endpoint, *FAST, "--concurrency", "8", "--retries", "8")
    assert (counts["accepted"], counts["failed"]) == (8, {})
    assert endpoint.most_at_once <= 8
    assert refused[0] < 20
