"""The log of all replies, shared by processes; and many questions at a time. Against a real HTTP server."""

import asyncio
import json
import subprocess
import sys
import time

import pytest
from asker_kit import GOOD, about, as_older, asker_at, put
from judge_kit import Waits, crowded, fails, says, serve

from got.util.errors import UserError
from got.util.hashes import SealedLog


# ------------------------------------------------------------------------------------------------------------------ log
@pytest.mark.parametrize(
    "damage",
    [
        {"key": None},
        {"tokens_in": "many"},
        {"Key": "x", "key": 7},
        {"max_tokens": -1},
        {"first_token": "Yes"},
        {"first_token": {"Yes": 7}},
        {"spelled": {"Yes": -0.5}},
        {"spelled": {"Yes": "0.5"}},
        {"usd": "1"},
        {"id": []},
        {"cause": 7},
    ],
)
@pytest.mark.parametrize("hashed", [True, False])
def test_a_damaged_line_of_the_log_is_named(tmp_path, damage, hashed):
    log = tmp_path / "replies.jsonl"
    with serve(GOOD) as endpoint:
        put(asker_at(endpoint, log), about("a"))
        whole = json.loads(log.read_text()) if hashed else as_older(json.loads(log.read_text()))
        log.write_text(json.dumps(whole) + "\n" + json.dumps({**whole, **damage}) + "\n")
        with pytest.raises(UserError, match=r"replies.jsonl line 2 is damaged.*take the line out, .* asked again"):
            asker_at(endpoint, log)


def test_a_flipped_digit_of_a_paid_reply_is_named_and_asked_again_once_its_line_is_out(tmp_path):
    log = tmp_path / "replies.jsonl"
    with serve(says('{"score": 8}'), says('{"score": 6}'), says('{"score": 4}')) as endpoint:
        assert put(asker_at(endpoint, log, concurrency=1), about("a"), about("b")) == [{"score": 8}, {"score": 6}]
        first, second = log.read_text().splitlines(keepends=True)
        log.write_text(first.replace("8}", "3}") + second)
        with pytest.raises(UserError, match=r"replies.jsonl line 1 is damaged: it is not as it was written; take the"):
            asker_at(endpoint, log)
        log.write_text(second)
        assert put(asker_at(endpoint, log, concurrency=1), about("a"), about("b")) == [{"score": 4}, {"score": 6}]
    assert len(endpoint.requests) == 3


def test_a_log_of_an_older_version_is_taken_as_it_is_and_said_once(tmp_path, capsys):
    log = tmp_path / "replies.jsonl"
    with serve(GOOD) as endpoint:
        put(asker_at(endpoint, log), about("a"), about("b"))
        older = [json.dumps(as_older(json.loads(line))) for line in log.read_text().splitlines()]
        log.write_text("\n".join(older) + "\n")
        assert put(asker_at(endpoint, log), about("a"), about("b"), about("c")) == [{"ok": 1}] * 3
        assert len(endpoint.requests) == 3
        assert capsys.readouterr().err.count("replies.jsonl: 2 lines of an older version have no hash") == 1
        assert put(asker_at(endpoint, log), about("c")) == [{"ok": 1}]
        log.write_text(log.read_text() + older[0] + "\n")  # no older version wrote behind a newer one
        with pytest.raises(UserError, match=r"replies.jsonl line 4 is damaged"):
            asker_at(endpoint, log)


def test_where_no_price_is_known_the_log_says_none(tmp_path):
    log = tmp_path / "replies.jsonl"
    with serve(GOOD) as endpoint:
        put(asker_at(endpoint, log), about("a"))
        assert json.loads(log.read_text())["usd"] is None
        assert asker_at(endpoint, log, usd_per_million=(1.0, 2.0)).ledger.spent_usd == pytest.approx(1100 / 1e6)


# ---------------------------------------------------------------------------------------------------- many at a time
def test_the_same_question_is_never_under_way_twice(tmp_path):
    def slow(request):
        time.sleep(0.05)
        return GOOD

    with serve(slow) as endpoint:
        asker = asker_at(endpoint, tmp_path / "replies.jsonl", concurrency=16)
        same = [about("a", subject=f"s{number}") for number in range(12)]
        assert put(asker, *same, about("b")) == [{"ok": 1}] * 13
    assert len(endpoint.requests) == 2


def test_two_processes_with_one_log_do_not_pay_for_what_the_other_has(tmp_path):
    log = tmp_path / "replies.jsonl"
    with serve(GOOD) as endpoint:
        price = {"usd_per_million": (1000.0, 2000.0), "max_usd": 8.2, "concurrency": 1}  # a reply costs 1.1
        first, second = (asker_at(endpoint, log, **price) for _ in range(2))
        assert put(first, about("a"), about("b")) == [{"ok": 1}] * 2
        with log.open("ab") as file:
            file.write(b'{"key": "half of a li')  # the other one is about to write it
        assert put(second, about("a"), about("b")) == [{"ok": 1}] * 2
        assert (len(endpoint.requests), second.ledger.spent_usd) == (2, pytest.approx(2.2))
        log.write_bytes(log.read_bytes().rpartition(b"\n")[0] + b"\n")
        assert put(second, about("c"), about("d")) == [{"ok": 1}, "budget"]  # one more might cost 5.8
        assert put(first, about("c")) == [{"ok": 1}]
        assert first.ledger.spent_usd == pytest.approx(second.ledger.spent_usd) == pytest.approx(3.3)
    assert len(endpoint.requests) == 3


READS = """
import sys
from pathlib import Path
from got.util.hashes import SealedLog
log, seen = SealedLog(Path(sys.argv[1]), "it is asked again"), []
while len(seen) < int(sys.argv[2]):
    seen += [record["n"] for _, record in log.news()]
assert sorted(seen) == list(range(len(seen))), seen
"""


def test_a_process_that_opens_a_log_misses_no_line_that_another_one_writes_meanwhile(tmp_path):
    """Every line is read once: none is lost between the first look and the next, and none is counted twice."""
    log = tmp_path / "replies.jsonl"
    writer = SealedLog(log, "it is asked again")
    for number in range(200):
        writer.add({"n": number, "text": "x" * 5_000})
    readers = [
        subprocess.Popen([sys.executable, "-c", READS, str(log), "1200"], stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for number in range(200, 1200):
        writer.add({"n": number, "text": "x" * 5_000})
    for reader in readers:
        try:
            assert reader.wait(60) == 0, reader.stderr.read()
        finally:
            reader.kill()
            reader.stderr.close()


def test_a_rate_limit_holds_everybody_back_and_the_pace_is_found(tmp_path):
    """A server that takes three at a time and refuses more: all questions are answered, few are refused."""
    three, refused = crowded(3, lambda request: GOOD, "20")
    with serve(three) as endpoint:
        asker = asker_at(endpoint, concurrency=24, attempts=6, sleep=asyncio.sleep)
        assert put(asker, *(about(f"q{number}") for number in range(60))) == [{"ok": 1}] * 60
    assert refused[0] < 60


def test_requests_without_a_reply_may_be_no_attempts():
    """Annotation: `--retries` counts requests without a reply, `--attempts` replies that are of no use."""
    script = [fails(500), fails(500), says("hm"), fails(500), fails(500), GOOD]
    with serve(*script) as endpoint:
        asker = asker_at(endpoint, attempts=2, retries=2, retry_temperature=0.7)
        assert put(asker, about("a")) == [{"ok": 1}]
    assert [request["temperature"] for request in endpoint.requests] == [0.0] * 3 + [0.7] * 3
    with serve(*script) as endpoint:
        assert put(asker_at(endpoint, attempts=4, retries=1), about("a")) == ["transport"]
    assert len(endpoint.requests) == 2


def test_requests_keep_to_the_rate_that_was_asked_for():
    waits = Waits()
    with serve(GOOD) as endpoint:
        put(asker_at(endpoint, sleep=waits, per_minute=60.0, concurrency=4), *map(about, "abcde"))
    assert len(endpoint.requests) == 5
    assert max(waits.seconds) > 2.5  # the fifth waits four seconds, less what has passed


def test_a_line_whose_hash_has_lost_its_name_is_no_older_one(tmp_path):
    log = tmp_path / "replies.jsonl"
    with serve(says('{"score": 8}')) as endpoint:
        put(asker_at(endpoint, log), about("a"))
        log.write_text(log.read_text().replace("8}", "3}").replace('"sha256"', '"sha257"'))
        with pytest.raises(UserError, match=r"replies.jsonl line 1 is damaged"):
            asker_at(endpoint, log)
