"""The judge's contract against a real HTTP server with scripted faults."""

import base64
import io
import json
import time

import pytest
from judge_kit import KEY, Waits, fails, judge_at, question, says, serve, together
from PIL import Image

from evals.core import options as flags
from evals.core.backends import ICON_WORLD, PHOTOGRAPHS, Tools
from evals.core.records import UserError
from evals.judges import registry
from evals.judges.protocols import make_protocol
from evals.judges.vlm_judge import VlmJudge
from got.util.cli import Parser
from got.vlm.asker import AskSettings
from got.vlm.clients import AskParams
from got.vlm.endpoint import OpenAIBackend

GOOD = says('{"score": [8, 6], "reasoning": "the hat is there"}')


# ----------------------------------------------------------------------------------------------------------- one answer
def test_got_asks_once_with_the_text_then_both_images_and_takes_the_lower_score():
    with serve(GOOD) as endpoint:
        (answer,) = judge_at(endpoint).judge([question(seed=40)])
    assert answer.scores_0_10 == {"success": 8, "restraint": 6}
    assert answer.value == pytest.approx(0.6)
    (request,) = endpoint.requests
    text, source, result = request["messages"][0]["content"]
    assert '"add a red hat"' in text["text"]
    for part, color in ((source, (40, 0, 0)), (result, (0, 40, 9))):
        head, data = part["image_url"]["url"].split(",")
        assert head == "data:image/png;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).getpixel((3, 3)) == color
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("judge-1", 0, 1400)
    assert "response_format" not in request
    assert (answer.calls, answer.tokens_in, answer.tokens_out, answer.usd) == (1, 1000, 50, None)


def test_viescore_asks_about_the_edit_and_then_about_the_result_alone():
    with serve(says("[9, 4]"), says("[9, 10]")) as endpoint:
        (answer,) = judge_at(endpoint, "viescore").judge([question()])
    assert answer.value == pytest.approx(0.6)
    assert list(answer.scores_0_10) == ["success", "restraint", "naturalness", "cleanness"]
    assert [len(request["messages"][0]["content"]) for request in endpoint.requests] == [3, 2]
    assert (answer.calls, answer.tokens_in) == (2, 2000)


def test_a_failed_first_question_spares_the_second():
    with serve(says("", refusal="no")) as endpoint:
        (answer,) = judge_at(endpoint, "viescore").judge([question()])
    assert (answer.failure, len(endpoint.requests)) == ("refusal", 1)


# ------------------------------------------------------------------------------------------------------------ transport
def test_429_waits_as_long_as_the_server_says():
    waits = Waits()
    with serve(fails(429, "slow down", Retry_After="7"), fails(429, retry_after_ms="250"), GOOD) as endpoint:
        (answer,) = judge_at(endpoint, sleep=waits).judge([question()])
    assert answer.value == pytest.approx(0.6)
    assert waits.seconds == [7, 0.25]


def test_429_with_a_date_or_without_a_wish():
    waits = Waits()
    dated = fails(429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT")
    with serve(dated, fails(429), fails(429), GOOD) as endpoint:
        judge_at(endpoint, sleep=waits).judge([question()])
    assert waits.seconds == [0, 2, 4]


def test_a_server_that_wants_an_hour_is_not_waited_for():
    waits = Waits()
    with serve(fails(429, Retry_After="3600")) as endpoint:
        (answer,) = judge_at(endpoint, sleep=waits).judge([question()])
    assert (answer.failure, waits.seconds, len(endpoint.requests)) == ("rate limit", [], 1)


def test_an_empty_account_ends_the_run_and_is_not_asked_again():
    with serve(fails(429, "you exceeded your quota", "insufficient_quota")) as endpoint:
        with pytest.raises(UserError, match="you exceeded your quota"):
            judge_at(endpoint).judge([question()])
        assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    "step",
    [
        fails(500, "oops"),
        fails(503),
        {"body": GOOD, "cut": True},
        b"<html>Bad gateway</html>",
        {**GOOD, "choices": []},
        1.0,
    ],
)
def test_a_broken_answer_is_asked_for_again_with_growing_pauses_and_then_missing(step):
    waits = Waits()
    with serve(step) as endpoint:
        judge = judge_at(endpoint, sleep=waits, timeout=0.4 if step == 1.0 else 20, attempts=3)
        (answer,) = judge.judge([question()])
    assert (answer.failure, answer.value) == ("transport", None)
    assert len(endpoint.requests) == 3
    assert waits.seconds == [1, 2]


def test_a_broken_answer_followed_by_a_whole_one_counts():
    with serve(fails(500), {"body": GOOD, "cut": True}, GOOD) as endpoint:
        (answer,) = judge_at(endpoint).judge([question()])
    assert answer.value == pytest.approx(0.6)
    assert answer.calls == 3


def test_a_model_that_knows_the_length_by_another_name_is_asked_by_that_name():
    def picky(request):
        return fails(400, "use 'max_completion_tokens' instead") if "max_tokens" in request else GOOD

    with serve(picky) as endpoint:
        answers = judge_at(endpoint, concurrency=1).judge([question(seed=i) for i in range(3)])
    assert [answer.calls for answer in answers] == [1, 1, 1]
    assert endpoint.requests[1]["max_completion_tokens"] == 1400


def test_a_request_that_is_not_accepted_is_told_apart():
    with serve(fails(400, "image too large")) as endpoint:
        (answer,) = judge_at(endpoint).judge([question()])
    assert (answer.failure, len(endpoint.requests)) == ("rejected", 1)
    assert "image too large" in answer.detail


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_model_ends_the_run_in_one_line_without_the_key(status):
    with serve(fails(status, f"bad key {KEY}")) as endpoint, pytest.raises(UserError) as caught:
        judge_at(endpoint).judge([question()])
    assert f"HTTP {status}" in str(caught.value)
    assert KEY not in str(caught.value)


# -------------------------------------------------------------------------------------------------------- cache and log
def test_the_same_question_is_asked_once_and_again_after_any_change(tmp_path):
    log = tmp_path / "replies.jsonl"
    with serve(GOOD) as endpoint:
        judge_at(endpoint, log=log).judge([question()])
        again = judge_at(endpoint, log=log)
        (answer,) = again.judge([question()])
        assert (len(endpoint.requests), answer.calls, answer.value) == (1, 0, pytest.approx(0.6))
        changed = [question("remove it"), question(seed=1), question(repeat=1)]
        for count, other in enumerate(changed, 2):
            again.judge([other])
            assert len(endpoint.requests) == count
        judge_at(endpoint, log=log, params=AskParams(temperature=0.5)).judge([question()])
        judge_at(endpoint, "viescore", log=log).judge([question()])
        assert len(endpoint.requests) == 7


def test_the_log_holds_every_raw_reply_with_its_cause_and_what_served_it(tmp_path):
    log = tmp_path / "deep" / "replies.jsonl"
    with serve(says("hm"), GOOD) as endpoint:
        judge_at(endpoint, log=log).judge([question(case="case 7")])
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["text"], line["cause"], line["attempt"]) for line in lines] == [
        ("hm", "unparsable", 0),
        (GOOD["choices"][0]["message"]["content"], None, 1),
    ]
    assert lines[1]["served_by"] == "judge-1 fp_7"
    assert {line["case"] for line in lines} == {"case 7"}
    assert KEY not in log.read_text()
    assert "127.0.0.1" not in log.read_text()


def test_what_failed_is_asked_again_on_the_next_run_and_a_cut_line_does_no_harm(tmp_path):
    log = tmp_path / "replies.jsonl"
    with serve(says("hm"), GOOD) as endpoint:
        (first,) = judge_at(endpoint, log=log, attempts=1).judge([question()])
        with log.open("a") as file:
            file.write('{"key": "cut of')
        (second,) = judge_at(endpoint, log=log, attempts=1).judge([question()])
        (third,) = judge_at(endpoint, log=log, attempts=1).judge([question()])
    assert [first.failure, second.failure, third.calls] == ["unparsable", None, 0]
    assert all(map(json.loads, log.read_text().splitlines()))


# ------------------------------------------------------------------------------------------------ money and concurrency
def test_spending_is_counted_and_stops_before_the_limit():
    price = (1000.0, 2000.0)  # a call of 1000 and 50 tokens costs 1.1
    with serve(GOOD) as endpoint:
        judge = judge_at(endpoint, usd_per_million=price, max_usd=10.0, concurrency=1)
        answers = judge.judge([question(seed=i) for i in range(12)])
    failed = [answer for answer in answers if answer.failure]
    assert {answer.failure for answer in failed} == {"budget"}
    assert len(endpoint.requests) == 12 - len(failed) == 4  # one more could cost up to 5.8: 3000 and 1400 tokens
    assert judge.ledger.spent_usd == pytest.approx(4.4)
    assert answers[0].usd == pytest.approx(1.1)


def test_the_limit_holds_over_runs_and_more_money_pays_for_what_is_left_alone(tmp_path):
    log = tmp_path / "replies.jsonl"
    questions = [question(seed=i) for i in range(6)]
    options = {"usd_per_million": (1000.0, 2000.0), "concurrency": 1, "log": log}  # an answer costs 1.1
    with serve(says("hm"), GOOD) as endpoint:
        first = judge_at(endpoint, max_usd=8.1, **options).judge(questions)
        assert [answer.failure for answer in first] == [None, None] + ["budget"] * 4
        again = judge_at(endpoint, max_usd=8.1, **options)
        assert again.ledger.spent_usd == pytest.approx(3.3)  # what could not be read is paid, too
        assert [answer.failure for answer in again.judge(questions)] == [None, None] + ["budget"] * 4
        assert len(endpoint.requests) == 3
        judge_at(endpoint, "viescore", max_usd=8.1, **options).judge(questions[:1])  # another judge, another account
        assert len(endpoint.requests) == 5
        richer = judge_at(endpoint, max_usd=20, **options).judge(questions)
    assert [answer.calls for answer in richer] == [0, 0, 1, 1, 1, 1]
    assert len(endpoint.requests) == 9


def test_a_logged_reply_without_counts_has_cost_what_was_set_aside(tmp_path):
    options = {"usd_per_million": (1000.0, 2000.0), "concurrency": 1, "log": tmp_path / "replies.jsonl"}
    with serve(says("[5, 5]", usage=None)) as endpoint:
        first = judge_at(endpoint, **options)
        first.judge([question(seed=i) for i in range(2)])
        assert judge_at(endpoint, **options).ledger.spent_usd == pytest.approx(first.ledger.spent_usd) == 11.6


def test_requests_under_way_count_against_the_limit():
    with serve(GOOD) as endpoint:
        judge = judge_at(endpoint, usd_per_million=(1000.0, 2000.0), max_usd=10.0, concurrency=8)
        judge.judge([question(seed=i) for i in range(40)])
    assert judge.ledger.spent_usd <= 10


def test_an_answer_without_counts_costs_what_was_set_aside():
    with serve(says("[5, 5]", usage=None)) as endpoint:
        judge = judge_at(endpoint, usd_per_million=(1000.0, 2000.0), max_usd=12.0, concurrency=1)
        answers = judge.judge([question(seed=i) for i in range(4)])
    assert [answer.failure for answer in answers] == [None, None, "budget", "budget"]


def test_no_more_requests_at_a_time_than_allowed_and_answers_in_order():
    def slow(request):
        time.sleep(0.05)
        return says(f"[{len(request['messages'][0]['content'][0]['text']) % 7}, 9]")

    questions = [question("x" * i, seed=i) for i in range(12)]
    with serve(together(3, slow)) as endpoint:
        parallel = judge_at(endpoint, concurrency=3).judge(questions)
        alone = judge_at(endpoint, concurrency=1).judge(questions)
    assert endpoint.most_at_once == 3
    assert [a.value for a in parallel] == [a.value for a in alone]


# ----------------------------------------------------------------------------------------------------- names and set-up
def test_a_judges_name_changes_with_model_protocol_and_prompt(tmp_path):
    own = tmp_path / "figure12.txt"
    own.write_text("Rate this edit: {instruction}")
    names = set()
    with serve(GOOD) as endpoint:
        for protocol in (make_protocol("got"), make_protocol("viescore"), make_protocol("got", own)):
            for model in ("a", "b"):
                backend = OpenAIBackend(model, endpoint.url, KEY)
                names.add(VlmJudge(protocol, backend, AskSettings()).name)
        verbatim = VlmJudge(make_protocol("got", own), backend, AskSettings())
        verbatim.judge([question('add "x"')])
    assert len(names) == 6
    assert all("@" in name and "#" in name for name in names)
    assert endpoint.requests[0]["messages"][0]["content"][0]["text"] == 'Rate this edit: add "x"'


def test_a_prompt_that_does_not_fit_is_refused(tmp_path):
    own = tmp_path / "own.txt"
    own.write_text("no place")
    with pytest.raises(UserError, match="once but got it 0 times"):
        make_protocol("got", own)
    with pytest.raises(UserError, match="cannot be read"):
        make_protocol("got", tmp_path / "none.txt")
    with pytest.raises(UserError, match="protocol got only"):
        make_protocol("viescore", own)
    with pytest.raises(UserError, match="protocol got or viescore"):
        make_protocol("elo")


def given(judge, *words):
    parser = Parser()
    flags.add_flags(parser, registry.JudgeOptions, {"judge": parser.add_argument_group("judge")}, "judge")
    return flags.read(registry.JudgeOptions, parser.parse_args(["--judge", judge, *map(str, words)]))


def make(judge, *words):
    return registry.make_judge(given(judge, *words), Tools(detector=pytest.fail, embedder=pytest.fail))


def test_the_environment_alone_names_the_endpoint(monkeypatch, tmp_path):
    for name in ("JUDGE_MODEL", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="set JUDGE_MODEL"):
        make("openai")
    monkeypatch.setenv("JUDGE_MODEL", "judge-1")
    with pytest.raises(UserError, match="set OPENAI_API_KEY"):
        make("openai")
    with serve(GOOD) as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
        judge = make("openai", "--judge-price", "2.5", "10", "--judge-log", tmp_path / "log.jsonl")
        (answer,) = judge.judge([question()])
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        words = ("--judge-temperature", "none", "--judge-json")
        make("openai", *words, "--judge-log", tmp_path / "other.jsonl").judge([question()])
        words = ("--judge-max-tokens", "9000", "--judge-extra", '{"reasoning_effort": "low"}', "--judge-jpeg", "80")
        small = make("openai", *words, "--judge-max-pixels", "32", "--judge-log", tmp_path / "third.jsonl")
        small.judge([question()])
    assert small.name == f"{judge.name.partition('+')[0]}+jpeg80-32px"
    assert (endpoint.requests[2]["max_tokens"], endpoint.requests[2]["reasoning_effort"]) == (9000, "low")
    sent = endpoint.requests[2]["messages"][0]["content"][1]["image_url"]["url"]
    assert sent.startswith("data:image/jpeg;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(sent.split(",")[1]))).size == (5, 5)
    assert "temperature" not in endpoint.requests[1]
    assert endpoint.requests[1]["response_format"] == {"type": "json_object"}
    assert answer.usd == pytest.approx((1000 * 2.5 + 50 * 10) / 1e6)
    assert judge.name.startswith("got@judge-1#")
    assert judge.name.endswith("+1048576px")
    assert [headers["authorization"] for headers in endpoint.headers] == ["Bearer none", *[f"Bearer {KEY}"] * 2]


@pytest.mark.parametrize(
    ("spec", "words", "message"),
    [
        ("gpt", (), r"Expected a judge among none, measured, openai\[:MODEL\], hf:PATH\|ID but got 'gpt'"),
        ("hf:", (), "Expected hf:PATH or hf:ID but got 'hf:'"),
        ("openai", ("--max-spend", "3"), "--max-spend needs --judge-price"),
        ("openai", ("--judge-repeats", "0"), "expected a whole number from 1 up but got 0"),
        ("openai", ("--judge-max-failed", "2"), "expected a number from 0 to 1"),
        ("openai", ("--judge-extra", "[1]"), "expected a JSON object but got"),
        ("openai", ("--judge-max-tokens", "0"), "expected a whole number from 1 up but got 0"),
        ("openai", ("--judge-jpeg", "100"), "expected a whole number from 1 to 95 but got 100"),
        ("hf:x", ("--judge-repeats", "3"), "greedy"),
    ],
)
def test_a_wrong_set_up_is_one_line(spec, words, message, monkeypatch):
    monkeypatch.setenv("JUDGE_MODEL", "m")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    with pytest.raises(UserError, match=message):
        make(spec, *words)
    with pytest.raises(UserError, match=message):
        registry.resolve(given(spec, *words), ICON_WORLD)


@pytest.mark.parametrize("judge", ["none", "measured"])
@pytest.mark.parametrize(
    "words", ["--judge-repeats 0", "--judge-max-failed -1", "--max-spend 1", "--judge-concurrency 0"]
)
def test_flags_are_checked_for_judges_that_are_not_asked_too(judge, words):
    with pytest.raises(UserError, match=words.split()[0]):
        registry.resolve(given(judge, *words.split()), ICON_WORLD)


def test_what_measures_is_for_the_icon_world_and_a_model_must_be_named(monkeypatch):
    with pytest.raises(UserError, match="--judge measured is for the icon world"):
        registry.resolve(given("measured"), PHOTOGRAPHS)
    resolved = registry.resolve(given("measured"), ICON_WORLD)
    assert (resolved.judge_place, resolved.judge_prompts) == (None, None)
    monkeypatch.delenv("JUDGE_MODEL", raising=False)
    with pytest.raises(UserError, match="set JUDGE_MODEL"):
        registry.resolve(given("openai"), ICON_WORLD)


@pytest.mark.parametrize("address", [None, "http://127.0.0.1:9/v1", "http://127.0.0.1:9/v1/"])
def test_a_run_knows_its_endpoint_by_the_hash_that_the_log_goes_by(address, monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    if address:
        monkeypatch.setenv("OPENAI_BASE_URL", address)
    resolved = registry.resolve(given("openai:m"), PHOTOGRAPHS)
    assert resolved.judge_place == OpenAIBackend("m", address, KEY).secret_free_place
    assert resolved.judge_prompts == make_protocol("got").prompt_hash


def test_shipped_prompts_ask_for_what_the_parser_reads():
    for name in ("got", "viescore"):
        for call in make_protocol(name).calls:
            assert '{"score": [' in call.prompt
            assert call.prompt.count("{instruction}") == (2 if len(call.images) == 2 else 1) - 1
