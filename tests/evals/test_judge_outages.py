"""Has the judge's endpoint gone, or are there images that it cannot take? Against a real HTTP server."""

import json
import time

import pytest
from judge_kit import KEY, fails, judge_at, question, says, serve

from evals.core.records import UserError
from evals.harness import cli
from evals.harness.run_spec import find_suite
from evals.harness.runner import run

GOOD = says('{"score": [8, 6], "reasoning": "the hat is there"}')


@pytest.mark.parametrize("script", [[fails(500)], [fails(400, "what?")], [GOOD, fails(500)], [GOOD, GOOD, fails(429)]])
def test_an_endpoint_that_does_not_answer_any_more_ends_the_run(script):
    with serve(*script) as endpoint:
        with pytest.raises(UserError, match=r"the judge does not answer .*resumes when it does.*HTTP"):
            judge_at(endpoint, attempts=1, concurrency=1).judge([question(seed=i) for i in range(20)])
        assert len(endpoint.requests) - (len(script) - 1) in (8, 9)  # the next one may be under way


@pytest.mark.parametrize("alive", [GOOD, says("hm"), says("", refusal="no"), fails(400, "content_filter")])
def test_an_endpoint_that_answers_now_and_then_is_waited_for(alive):
    script = [step for _ in range(4) for step in (*[fails(503)] * 7, alive)]
    with serve(*script) as endpoint:
        answers = judge_at(endpoint, attempts=1, concurrency=1).judge([question(seed=i) for i in range(32)])
    assert [answer.failure for answer in answers].count("transport") == 28


def test_images_that_are_not_accepted_do_not_end_a_run_that_had_answers():
    with serve(GOOD, fails(400, "image too large")) as endpoint:
        answers = judge_at(endpoint, attempts=1, concurrency=1).judge([question(seed=i) for i in range(12)])
    assert [answer.failure for answer in answers] == [None] + ["rejected"] * 11


def test_replies_from_the_log_do_not_hide_that_the_endpoint_is_gone(tmp_path):
    log = tmp_path / "replies.jsonl"
    with serve(GOOD) as endpoint:
        judge_at(endpoint, log=log).judge([question(seed=i) for i in range(0, 40, 2)])
        endpoint.script[:] = [fails(500)]
        with pytest.raises(UserError, match="the judge does not answer"):
            judge_at(endpoint, log=log, attempts=1, concurrency=1).judge([question(seed=i) for i in range(40)])
        assert len(endpoint.requests) - 20 in (8, 9)


def test_images_that_never_get_an_answer_do_not_stand_for_the_endpoint_in_a_later_run(tmp_path):
    """Ten of forty, never in a row, until nothing else is left to ask."""
    words = ["break down" if i % 4 == 3 else "add a hat" for i in range(40)]
    questions = [question(one, seed=i, case=f"c{i}") for i, one in enumerate(words)]
    log = tmp_path / "replies.jsonl"
    with serve(lambda request: fails(500) if "break down" in json.dumps(request) else GOOD) as endpoint:
        for _ in range(2):
            answers = judge_at(endpoint, log=log, attempts=1, concurrency=1).judge(questions)
            assert [answer.failure for answer in answers] == [None, None, None, "transport"] * 10
        assert len(endpoint.requests) == 40 + 10
        endpoint.script[:] = [fails(500)]
        new = [question(seed=i, case=f"new{i}") for i in range(20)]
        with pytest.raises(UserError, match="the judge does not answer"):
            judge_at(endpoint, log=log, attempts=1, concurrency=1).judge([*questions, *new])


def test_images_that_are_not_accepted_do_not_end_a_later_run_either(tmp_path):
    log = tmp_path / "replies.jsonl"
    with serve(GOOD, fails(400, "image too large")) as endpoint:
        for _ in range(2):
            answers = judge_at(endpoint, log=log, attempts=1, concurrency=1).judge(
                [question(seed=i) for i in range(12)]
            )
            assert [answer.failure for answer in answers] == [None] + ["rejected"] * 11


def test_batches_that_are_smaller_than_the_requests_at_a_time_are_asked_about_together(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    most = {}
    for name, size in (("one", "1"), ("all", "12")):
        with serve(GOOD) as endpoint:

            def slow(request, endpoint=endpoint):
                deadline = time.monotonic() + 5  # long enough for two more
                while endpoint.most_at_once < 3 and time.monotonic() < deadline:
                    time.sleep(0.01)
                return GOOD

            endpoint.script[:] = [slow]
            monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
            words = ["--model", "identity", "--judge", "openai:m", "--judge-concurrency", "3", "--batch-size", size]
            words += ["--judge-log", str(tmp_path / f"{name}.jsonl"), "--limit", "12", "--device", "cpu"]
            run(cli.make_plan(find_suite("emu_edit"), [*words, "--output", str(tmp_path / name)]))
            most[name] = endpoint.most_at_once
    assert most == {"one": 3, "all": 3}
    logs = [(tmp_path / name / "observations.jsonl").read_bytes().splitlines() for name in most]
    said = [[(line["case"], line["judgements"]) for line in map(json.loads, log)] for log in logs]
    assert said[0] == said[1]
