"""Requests, replies and errors of today's endpoints, against a real HTTP server that plays each of them."""

import asyncio
import io
import json
import math

import pytest
from asker_kit import GOOD, about, as_older, asker_at, put
from judge_kit import KEY, fails, says, serve
from PIL import Image

from got.vlm.asker import Question
from got.vlm.clients import AskFailed, AskParams, SetupError
from got.vlm.endpoint import OpenAIBackend, reply_in
from got.vlm.failures import cause_of, reason_in, refused_parameters
from got.vlm.messages import ASSISTANT, SYSTEM, USER, Encoding, ImageFile, Message, encoded, user


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


@pytest.mark.parametrize("odd", [math.nan, math.inf, 1e308, 7, "-1", None, 10**400])
def test_a_number_that_is_no_logarithm_of_a_probability_is_no_probability(odd):
    answer = says("Yes")
    answer["choices"][0]["logprobs"] = {"content": [{"top_logprobs": [{"token": "Yes", "logprob": odd}]}]}
    assert reply_in(answer, AskParams(spellings=("Yes",))).first_token is None


def test_tokens_that_cannot_come_have_no_probability():
    said = [{"token": "Yes", "logprob": 1e-6}, {"token": "No", "logprob": -math.inf}]
    answer = says("Yes")
    answer["choices"][0]["logprobs"] = {"content": [{"top_logprobs": said}]}
    found = reply_in(answer, AskParams(spellings=("Yes",))).first_token
    assert found == {"Yes": pytest.approx(1, abs=1e-5), "No": 0.0}


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
