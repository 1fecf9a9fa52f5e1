"""Requests, replies and errors of today's endpoints, against a real HTTP server that plays each of them."""

import asyncio
import io
import json
import subprocess
import sys
import threading
import time

import pytest
from judge_kit import KEY, Waits, fails, says, serve
from PIL import Image

from got.util.errors import UserError
from got.util.hashes import OWN_HASH, SealedLog
from got.vlm.asker import Asker, AskSettings, Question
from got.vlm.clients import AskFailed, AskParams, SetupError
from got.vlm.encoding import Encoding, encoded
from got.vlm.endpoint import OpenAIBackend
from got.vlm.failures import cause_of, reason_in, refused_parameters
from got.vlm.json_replies import BadReply, read_json
from got.vlm.messages import ASSISTANT, SYSTEM, USER, ImageFile, Message, user

GOOD = says('{"ok": 1}')


def asker_at(endpoint, log=None, sleep=None, timeout=20.0, **settings):
    backend = OpenAIBackend("m", endpoint.url, KEY, timeout_seconds=timeout)
    return Asker(backend, AskSettings(**settings), log, subject=("id",), identity=("m",), sleep=sleep or Waits())


def put(asker, *questions, read=lambda reply: read_json(reply.text)):
    """What came of each question: the result, or the failure's cause."""
    found = {}

    async def work(numbered):
        number, question = numbered
        try:
            found[number] = await asker.ask(question, read)
        except (AskFailed, BadReply) as error:
            found[number] = error.cause

    asyncio.run(asker.each(enumerate(questions), work))
    return [found[number] for number in range(len(questions))]


def about(words, subject=None, **more):
    return Question(subject=(subject or words,), detail={}, messages=user(words), **more)


def content(parts, finish="stop"):
    return says(parts, finish)


# -------------------------------------------------------------------------------------------------------------- replies
def test_the_text_parts_of_a_content_are_the_reply():
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": '{"ok": 0}'}]},
        {"type": "text", "text": '{"ok":'},
        {"type": "text", "text": " 1}"},
    ]
    with serve(content(parts)) as endpoint:
        assert put(asker_at(endpoint), about("a")) == [{"ok": 1}]


@pytest.mark.parametrize("form", [{"text": "hm"}, [{"type": "image"}], ["text"], 7, [{"type": "text", "text": None}]])
def test_an_unknown_form_is_paid_once_recorded_and_never_a_reply(tmp_path, form):
    log = tmp_path / "replies.jsonl"
    with serve(content(form)) as endpoint:
        assert put(asker_at(endpoint, log, retry_temperature=0.7), about("a")) == ["unknown form"]
        assert len(endpoint.requests) == 1
        (line,) = map(json.loads, log.read_text().splitlines())
        assert (line["cause"], json.loads(line["text"]), line["tokens_in"]) == ("unknown form", form, 1000)
        endpoint.script[:] = [GOOD]
        again = asker_at(endpoint, log, retry_temperature=0.7)
        assert again.tokens_in == 1000
        assert put(again, about("a")) == [{"ok": 1}]


def test_a_log_with_content_that_once_was_no_text_is_read_and_not_replayed(tmp_path):
    log = tmp_path / "replies.jsonl"
    with serve(GOOD) as endpoint:
        put(asker_at(endpoint, log, retry_temperature=0.7), about("a"))
        line = as_older(json.loads(log.read_text()))
        log.write_text(json.dumps({**line, "text": [{"type": "text", "text": "x"}]}) + "\n")
        assert put(asker_at(endpoint, log, retry_temperature=0.7), about("a")) == [{"ok": 1}]
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize(
    "text",
    [
        '<think>perhaps {"ok": 0}?</think>\n{"ok": 1}',
        'perhaps {"ok": 0}?</think>{"ok": 1}',
        '<think>a <think>b</think> {"ok": 0}</think>{"ok": 1}',
        '[THINK]{"ok": 0}[/THINK]{"ok": 1}',
        '<reasoning>{"ok": 0}</reasoning>{"ok": 1}',
    ],
)
def test_thoughts_are_no_answer_and_stay_in_the_log(tmp_path, text):
    log = tmp_path / "replies.jsonl"
    with serve(says(text)) as endpoint:
        assert put(asker_at(endpoint, log), about("a")) == [{"ok": 1}]
        assert put(asker_at(endpoint, log), about("a")) == [{"ok": 1}]
    assert len(endpoint.requests) == 1
    assert json.loads(log.read_text())["text"] == text


@pytest.mark.parametrize("text", ["", None, '<think>first {"ok": 0}, then', '{"ok": 1'])
def test_an_answer_that_is_cut_off_says_after_how_many_tokens_and_is_paid_once(tmp_path, capsys, text):
    log = tmp_path / "replies.jsonl"
    with serve(says(text, finish="length", usage=(1000, 1400))) as endpoint:
        for _ in range(2):
            assert put(asker_at(endpoint, log, attempts=4), about("a")) == ["truncated"]
        assert len(endpoint.requests) == 1
        assert "cut off after 1400 tokens; --max-tokens allows more" in capsys.readouterr().err
        endpoint.script[:] = [GOOD]
        longer = AskParams(max_tokens=8000)
        assert put(asker_at(endpoint, log, params=longer), about("a")) == [{"ok": 1}]
        assert put(asker_at(endpoint, log, params=AskParams(max_tokens=9000)), about("a")) == [{"ok": 1}]
    assert [request["max_tokens"] for request in endpoint.requests] == [1400, 8000]


def test_a_model_that_repeats_itself_to_the_limit_is_tried_at_another_temperature():
    with serve(says("la la la", finish="length"), GOOD) as endpoint:
        assert put(asker_at(endpoint, retry_temperature=0.7), about("a")) == [{"ok": 1}]
    with serve(says("<think>la la la", finish="length")) as endpoint:
        assert put(asker_at(endpoint, retry_temperature=0.7), about("a")) == ["truncated"]
        assert len(endpoint.requests) == 1


@pytest.mark.parametrize("finish", ["content_filter", "SAFETY", "PROHIBITED_CONTENT"])
def test_a_filter_behind_the_endpoint_is_a_refusal(finish):
    with serve(says("", finish=finish)) as endpoint:
        assert put(asker_at(endpoint), about("a")) == ["refusal"]
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    "body", [{"error": {"message": "upstream died", "code": 502}}, {"choices": []}, b"<html>", b"7"]
)
def test_an_answer_without_a_message_is_asked_again(body):
    with serve(body, GOOD) as endpoint:
        assert put(asker_at(endpoint), about("a")) == [{"ok": 1}]


def test_an_error_with_status_200_is_taken_as_what_it_says():
    flagged, poor = ({"error": {"message": words, "code": code}} for words, code in (("flagged", 403), ("pay", 402)))
    with serve(GOOD, flagged, poor) as endpoint:
        asker = asker_at(endpoint, concurrency=1)
        assert put(asker, about("a"), about("b")) == [{"ok": 1}, "refusal"]
        with pytest.raises(SetupError, match="an error 402: pay"):
            put(asker, about("c"))


@pytest.mark.parametrize("code", [402, 403])
def test_an_error_with_status_200_gives_no_key_away(code, capsys):
    with serve({"error": {"message": f"no credit for {KEY}", "code": code}}) as endpoint:
        backend = OpenAIBackend("m", endpoint.url, KEY)

        async def ask():
            try:
                await backend.ask(user("a"), AskParams(), None)
            finally:
                await backend.close()

        with pytest.raises((AskFailed, SetupError)) as caught:
            asyncio.run(ask())
    assert str(caught.value).endswith(f"an error {code}: no credit for ***")
    assert KEY not in repr(caught.value) + "".join(capsys.readouterr())


def test_probabilities_of_the_first_token():
    top = [{"token": "Yes", "logprob": -0.5}, {"token": " yes", "logprob": -2.0}, {"token": "Yes", "logprob": -3.0}]
    answer = says("Yes", finish="length")
    answer["choices"][0]["logprobs"] = {"content": [{"token": "Yes", "logprob": -0.5, "top_logprobs": top}]}
    with serve(answer, says("Yes", finish="length")) as endpoint:
        asker = asker_at(endpoint, params=AskParams(max_tokens=1))
        (found,) = put(asker, about("a", spellings=("Yes", "No")), read=lambda reply: reply.first_token)
        assert found == {"Yes": pytest.approx(0.60653 + 0.04979, abs=1e-4), " yes": pytest.approx(0.13534, abs=1e-4)}
        assert put(asker, about("b", spellings=("Yes",)), read=lambda reply: reply.first_token) == ["truncated"]
    assert (endpoint.requests[0]["logprobs"], endpoint.requests[0]["top_logprobs"]) == (True, 20)


# ------------------------------------------------------------------------------------------------------------- requests
REFUSALS = [
    ("seed", fails(422, body={"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "input": "max_tokens",
                                          "msg": "Extra inputs are not permitted"}]})),
    ("seed", fails(400, "Invalid JSON payload received. Unknown name \"seed\": Cannot find field.")),
    ("seed", fails(400, "seed: Extra inputs are not permitted")),
    ("seed", fails(400, "property 'seed' is unsupported, did you mean 'speed'?")),
    ("seed", fails(500, "ollama does not support parameters: {'seed': 0}, for model=llama3")),
    ("temperature", fails(400, "Unsupported value: 'temperature' does not support 0 with this model. Only the default "
                               "(1) value is supported.", "unsupported_value")),
    ("temperature", fails(400, body={"error": {"message": "Unsupported parameter.", "param": "temperature"}})),
    ("max_tokens", fails(400, "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                              "'max_completion_tokens' instead.", "unsupported_parameter")),
    ("response_format", fails(400, "This model does not support response_format")),
    ("response_format", fails(422, body={"detail": "response_format is not implemented"})),
]  # fmt: skip


@pytest.mark.parametrize(("name", "refusal"), REFUSALS)
def test_a_parameter_that_is_refused_is_left_out_once_and_noted(tmp_path, capsys, name, refusal):
    log = tmp_path / "replies.jsonl"

    def picky(request):
        return refusal if name in request else GOOD

    with serve(picky) as endpoint:
        asker = asker_at(endpoint, log, params=AskParams(json_mode=True), concurrency=1)
        assert put(asker, about("a"), about("b")) == [{"ok": 1}] * 2
    assert [name in request for request in endpoint.requests] == [True, False, False]
    kept = {"seed", "temperature", "max_tokens", "response_format"} - {name}
    assert kept <= endpoint.requests[2].keys()
    assert ("max_completion_tokens" in endpoint.requests[2]) == (name == "max_tokens")
    assert capsys.readouterr().err.count(f"note: m does not take {name}; it is left out") == 1
    assert [line["dropped"] for line in map(json.loads, log.read_text().splitlines())] == [[name]] * 2


def test_all_that_a_strict_server_refuses_is_left_out_one_after_the_other():
    def strict(request):
        odd = [name for name in request if name not in ("model", "messages")]
        return fails(400, f"Unrecognized request argument supplied: {odd[0]}") if odd else GOOD

    with serve(strict) as endpoint:
        assert put(asker_at(endpoint, concurrency=4), *map(about, "abcdefgh")) == [{"ok": 1}] * 8
    assert set(endpoint.requests[-1]) == {"model", "messages"}


@pytest.mark.parametrize(
    "words",
    [
        "max_tokens is too large: 1400. This model supports at most 1024 completion tokens.",
        "This model's maximum context length is 4096 tokens, max_tokens is not supported beyond it",
        "Invalid image: not supported",
    ],
)
def test_what_the_user_has_to_mend_is_said_once_and_nothing_left_out(capsys, words):
    with serve(GOOD, fails(400, words)) as endpoint:
        assert put(asker_at(endpoint, concurrency=1), *map(about, "abc")) == [{"ok": 1}, "rejected", "rejected"]
    assert len(endpoint.requests) == 3
    assert capsys.readouterr().err.count(words) == 1


def test_more_fields_of_the_request_can_be_given():
    extra = {"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "low"}
    with serve(GOOD) as endpoint:
        put(asker_at(endpoint, params=AskParams(extra=extra)), about("a"))
    assert extra.items() <= endpoint.requests[0].items()


def test_dialogues_system_messages_and_labelled_images_go_out_in_order():
    image = ImageFile(data=b"\xff\xd8\xff", mime="image/jpeg", detail="high")
    messages = (
        Message(role=SYSTEM, parts=("Be strict.",)),
        Message(role=USER, parts=("Before:", image, "After:", image, "What changed?")),
        Message(role=ASSISTANT, parts=("A hat.",)),
        Message(role=USER, parts=("Rate it.",)),
    )
    with serve(GOOD) as endpoint:
        put(asker_at(endpoint), Question(subject=("a",), detail={}, messages=messages))
    system, first, said, last = endpoint.requests[0]["messages"]
    assert (system, said) == (
        {"role": "system", "content": "Be strict."},
        {"role": "assistant", "content": "A hat."},
    )
    assert [part["type"] for part in first["content"]] == ["text", "image_url", "text", "image_url", "text"]
    assert first["content"][1]["image_url"] == {"url": "data:image/jpeg;base64,/9j/", "detail": "high"}
    assert last["content"] == [{"type": "text", "text": "Rate it."}]


def test_a_question_may_have_its_own_parameters():
    with serve(GOOD) as endpoint:
        own = AskParams(temperature=0.3, max_tokens=9, seed=None)
        assert put(asker_at(endpoint), about("a", params=own)) == [{"ok": 1}]
    assert (endpoint.requests[0]["temperature"], endpoint.requests[0]["max_tokens"]) == (0.3, 9)
    assert "seed" not in endpoint.requests[0]


@pytest.mark.parametrize(
    ("how", "size", "kind"),
    [
        (Encoding(), (2048, 1536), "PNG"),
        (Encoding(max_pixels=1024 * 1024), (1182, 886), "PNG"),
        (Encoding(longest_px=768, format="JPEG"), (768, 576), "JPEG"),
    ],
)
def test_images_are_sent_within_limits(how, size, kind):
    sent = encoded(Image.effect_noise((2048, 1536), 64).convert("RGB"), how)
    image = Image.open(io.BytesIO(sent.data))
    assert (image.size, image.format, sent.mime) == (size, kind, f"image/{kind.lower()}")


def test_a_small_image_is_sent_as_it_is():
    image = Image.effect_noise((40, 30), 64).convert("RGB")
    sent = encoded(image, Encoding(max_pixels=1200, longest_px=40))
    assert Image.open(io.BytesIO(sent.data)).tobytes() == image.tobytes()


# --------------------------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("status", "code", "words", "cause"),
    [
        (403, "", "Your chosen model requires moderation and your input was flagged for \"violence\"", "refusal"),
        (403, "", "Forbidden", "rejected"),
        (403, "", "The key has no permission for this model", "setup"),
        (403, "unsupported_country_region_territory", "Country, region, or territory not supported", "setup"),
        (402, "", "Insufficient credits", "setup"),
        (401, "", "who are you?", "setup"),
        (404, "model_not_found", "no such model", "setup"),
        (429, "insufficient_quota", "You exceeded your current quota", "setup"),
        (429, "", "slow down", "rate limit"),
        (400, "content_filter", "The response was filtered", "refusal"),
        (400, "moderation_blocked", "blocked by our safety system", "refusal"),
        (400, "data_inspection_failed", "Input data may contain inappropriate content", "refusal"),
        (400, "", "API key not valid (API_KEY_INVALID)", "setup"),
        (400, "", "model names are case sensitive", "rejected"),
        (413, "", "request too large", "rejected"),
        (451, "", "", "refusal"),
        (529, "overloaded_error", "Overloaded", "transport"),
        (503, "", "content filter is down", "transport"),
    ],
)  # fmt: skip
def test_what_an_error_means(status, code, words, cause):
    assert cause_of(status, code, words) == cause


def test_403_for_one_image_is_its_own_and_402_ends_the_run():
    with serve(GOOD, fails(403, "flagged by moderation"), fails(403, "Forbidden"), GOOD) as endpoint:
        found = put(asker_at(endpoint, concurrency=1), *map(about, "abcd"))
        assert found == [{"ok": 1}, "refusal", "rejected", {"ok": 1}]
    with serve(GOOD, fails(402, "Insufficient credits")) as endpoint:
        with pytest.raises(SetupError, match="HTTP 402: Insufficient credits"):
            put(asker_at(endpoint, concurrency=1), *map(about, "abcd"))
        assert len(endpoint.requests) == 2


def test_words_of_the_prompt_that_come_back_are_not_the_reason():
    body = {"error": {"message": "Bad image"}, "input": "add a flagged moderation sign with a seed: unsupported"}
    assert reason_in(body) == ("", "Bad image")
    assert refused_parameters(400, None, reason_in(body)[1], ["seed"]) == []


@pytest.mark.parametrize("failure", [fails(400, "what?"), fails(500, "down"), says("", finish="length")])
def test_a_short_run_without_any_answer_says_so_at_its_end(failure):
    with serve(failure) as endpoint:
        asker = asker_at(endpoint, attempts=1)
        put(asker, *map(about, "abc"))
        assert asker.silence().startswith("the model does not answer")
    with serve(GOOD, failure) as endpoint:
        asker = asker_at(endpoint, attempts=1, concurrency=1)
        put(asker, *map(about, "abc"))
        assert asker.silence() is None


# ------------------------------------------------------------------------------------------------------------------ log
def as_older(line):
    """A line as it was before lines had hashes."""
    return {name: value for name, value in line.items() if name != OWN_HASH}


@pytest.mark.parametrize(
    "damage",
    [
        {"key": None},
        {"tokens_in": "many"},
        {"Key": "x", "key": 7},
        {"max_tokens": -1},
        {"first_token": "Yes"},
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
    running, refused, lock = [0], [0], threading.Lock()

    def three(request):
        with lock:
            running[0] += 1
            full = running[0] > 3
            refused[0] += full
        try:
            if full:
                return fails(429, "slow down", retry_after_ms="20")
            time.sleep(0.02)
            return GOOD
        finally:
            with lock:
                running[0] -= 1

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
