"""Interviews: what goes out to a judge, in which order and form, and how replies become scores."""

import base64
import dataclasses
import io
import math

import pytest
import torch
from judge_kit import KEY, Waits, says, serve, together
from PIL import Image
from vlm_kit import build

from evals.judges.calls import Call, Interview, Sending, Shown
from evals.judges.interviewer import Interviewer
from evals.judges.readers import any_text, json_list, json_scores, labelled, named_lines
from got.vlm.asker import AskSettings
from got.vlm.endpoint import OpenAIBackend
from got.vlm.json_replies import BadReply
from got.vlm.local import TransformersBackend
from got.vlm.messages import Encoding

RED, BLUE = (Image.new("RGB", size, color) for size, color in (((1000, 500), "red"), ((56, 56), "blue")))
YES = ("Yes", "yes", " yes", " Yes")


def at(endpoint, log=None, sending=None):
    return Interviewer(
        "p#1", OpenAIBackend("judge-1", endpoint.url, KEY), AskSettings(), log, sending=sending, sleep=Waits()
    )


def likely(**tokens):
    """An answer with log-probabilities of its first token."""
    answer = says("Yes")
    top = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in tokens.items()]
    answer["choices"][0]["logprobs"] = {"content": [{**top[0], "top_logprobs": top}], "refusal": None}
    return answer


def opened(part):
    head, data = part["image_url"]["url"].split(",")
    return head, Image.open(io.BytesIO(base64.b64decode(data)))


def test_labels_system_message_and_encoding_go_out_as_the_protocol_says():
    sending = Sending(temperature=None, max_tokens=30, encoding=Encoding(format="JPEG", longest_px=768, detail="high"))
    shown = (Shown(role="a", label="before"), Shown(role="b"))
    call = Call(name="q", text="which?", images=shown, system="be strict", read=json_scores({"n": (1, 5)}))
    with serve(says('{"n": 4}')) as endpoint:
        (answers,) = at(endpoint, sending=sending).hold(
            [Interview(id="c", calls=(call,), images={"a": RED, "b": BLUE})]
        )
    assert (answers.scores, answers.failures) == ({"q": {"n": 4}}, {})
    (request,) = endpoint.requests
    system, asked = request["messages"]
    assert system == {"role": "system", "content": "be strict"}
    assert [part["type"] for part in asked["content"]] == ["text", "text", "image_url", "image_url"]
    head, image = opened(asked["content"][2])
    assert (head, image.size) == ("data:image/jpeg;base64", (768, 384))
    assert asked["content"][2]["image_url"]["detail"] == "high"
    assert (request["max_tokens"], "temperature" in request) == (30, False)


def test_a_dialogue_goes_on_with_the_first_reply_and_dies_with_it():
    calls = (
        Call(name="see", text="describe", images=(Shown(role="a"),), read=any_text),
        Call(name="one", text="score", images=(), read=json_list("score", ["x", "y"], (0, 1)), after="see"),
    )
    with serve(says("a red square"), says('{"score": [1, 0.5]}')) as endpoint:
        (answers,) = at(endpoint).hold([Interview(id="c", calls=calls, images={"a": RED})])
    assert answers.scores == {"see": {}, "one": {"x": 1, "y": 0.5}}
    first, second = endpoint.requests
    assert [turn["role"] for turn in second["messages"]] == ["user", "assistant", "user"]
    assert second["messages"][0] == first["messages"][0]
    assert second["messages"][1]["content"] == "a red square"
    with serve(says("", refusal="no")) as endpoint:
        (answers,) = at(endpoint).hold([Interview(id="c", calls=calls, images={"a": RED})])
    assert answers.failures == {"see": "refusal", "one": "refusal"}
    assert len(endpoint.requests) == 1


def test_independent_calls_outlive_one_that_fails_and_the_log_pays_each_once(tmp_path):
    read = labelled("Final Score", ["s"], (1, 5))
    calls = tuple(Call(name=name, text=name, images=(Shown(role="a"),), read=read) for name in ("one", "two"))

    def reply(request):
        bad = request["messages"][0]["content"][0]["text"] == "one"
        return says("no idea" if bad else "**Final Score:** 3")

    interview = Interview(id="c", calls=calls, images={"a": BLUE})
    with serve(reply) as endpoint:
        (first,) = at(endpoint, tmp_path / "log").hold([interview])
        asked = len(endpoint.requests)
        (second,) = at(endpoint, tmp_path / "log").hold([interview])
        assert len(endpoint.requests) - asked == 4  # the one that could not be read
    assert first.failures == second.failures == {"one": "unparsable"}
    assert first.scores == second.scores == {"two": {"s": 3}}
    assert first.calls == 5


def test_an_endpoint_says_how_likely_its_first_word_is_or_the_answer_is_missing():
    call = Call(name="q", text="Is it red? Answer in one word.", images=(Shown(role="a"),), spellings=YES)
    interview = Interview(id="c", calls=(call,), images={"a": RED})
    sending = Sending(max_tokens=1, images_first=True)
    with serve(likely(Yes=0.5, yes=0.25, No=0.2, Yeah=0.05)) as endpoint:
        (answers,) = at(endpoint, sending=sending).hold([interview])
    (request,) = endpoint.requests
    assert (request["logprobs"], request["top_logprobs"], request["max_tokens"]) == (True, 20, 1)
    assert [part["type"] for part in request["messages"][0]["content"]] == ["image_url", "text"]
    assert answers.scores["q"]["q"] == pytest.approx(0.75)
    with serve(says("Yes")) as endpoint:
        (answers,) = at(endpoint, sending=sending).hold([interview])
    assert answers.failures == {"q": "no probabilities"}


def test_a_local_model_gives_probabilities_from_its_whole_vocabulary(tmp_path):
    backend = TransformersBackend(str(build(tmp_path / "m")))
    calls = tuple(
        Call(name=words[0], text="Is it red?", images=(Shown(role="a"),), spellings=words) for words in (YES, ("No",))
    )
    judge = Interviewer("p#1", backend, AskSettings(), sending=Sending(max_tokens=1, images_first=True))
    (answers,) = judge.hold([Interview(id="c", calls=calls, images={"a": BLUE})])
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is it red?"}]}]
    text = backend._processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    inputs = backend._processor(text=[text], images=[BLUE], return_tensors="pt")
    with torch.inference_mode():
        chances = backend._model(**inputs).logits[0, -1].double().softmax(-1)
    ids = [backend._processor.tokenizer.encode(word)[0] for word in YES]
    assert answers.scores["Yes"]["Yes"] == pytest.approx(float(sum(chances[i] for i in ids)), rel=1e-5)
    assert answers.scores["No"]["No"] == pytest.approx(float(chances[backend._processor.tokenizer.encode("No")[0]]))


def test_a_local_model_answers_all_questions_about_an_image_at_once_and_a_run_goes_on_with_the_same_bits(tmp_path):
    folder, log = str(build(tmp_path / "m")), tmp_path / "log"
    asked = {"red": "Is it red?", "many": "How many are there? Say a number.", "left": "Left of it?", "why": "Why?"}
    calls = tuple(Call(name=name, text=text, images=(Shown(role="a"),), spellings=YES) for name, text in asked.items())
    interviews = [Interview(id=str(i), calls=calls, images={"a": image}) for i, image in enumerate((RED, BLUE))]

    def hold(kept=4):
        backend, rows = TransformersBackend(folder, kept=kept), []
        backend._model.lm_head.register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
        sending = Sending(max_tokens=1, images_first=True)
        judge = Interviewer("p#1", backend, AskSettings(), log if kept else None, sending=sending)
        return [answers.scores for answers in judge.hold(interviews)], rows

    whole, rows = hold()
    assert sorted(rows) == [1, 1, 4, 4]  # each image, then its four questions
    lines = log.read_text().splitlines(keepends=True)
    assert len(lines) == 8
    log.write_text("".join(lines[:3]))  # killed there
    assert hold()[0] == whole
    alone, rows = hold(kept=0)
    assert rows == [1] * 8
    for one, other in zip(whole, alone, strict=True):
        assert {name: one[name][name] for name in asked} == pytest.approx(
            {name: other[name][name] for name in asked}, rel=1e-4
        )


@pytest.mark.parametrize(
    ("read", "text", "cause"),
    [
        (json_scores({"a": (1, 5)}), '{"a": 6}', "out of range"),
        (json_scores({"a": (1, 5)}), '{"a": 1} or {"a": 2}', "unparsable"),
        (json_scores({"a": (1, 5)}), '{"b": 1}', "unparsable"),
        (json_scores({"a": (1, 5)}), '{"a": true}', "unparsable"),
        (json_list("score", ["a", "b"], (0, 1)), '{"score": [1]}', "unparsable"),
        (json_list("score", ["a"], (0, 1)), "I'm sorry, I can't help with that.", "refusal"),
        (named_lines(["A", "B"], (1, 5)), "A: 3", "unparsable"),
        (named_lines(["A"], (1, 5)), "A: 3\nA: 4", "unparsable"),
        (named_lines(["A"], (1, 5)), "A: 7", "out of range"),
        (labelled("Final Score", ["a", "b"], (1, 5)), "Final Score: 4", "unparsable"),
        (labelled("Score", ["a"], (0, 1), bare=True), "1\n0", "unparsable"),
        (labelled("Score", ["a"], (0, 1)), "", "unparsable"),
        (any_text, " \n", "unparsable"),
    ],
)
def test_a_reply_that_is_not_legal_has_a_cause_and_no_score(read, text, cause):
    with pytest.raises(BadReply) as bad:
        read(text)
    assert bad.value.cause == cause


def test_calls_that_need_no_other_reply_are_put_side_by_side():
    calls = [Call(name=f"c{i}", text=f"question {i}", images=(), read=json_scores({"n": (1, 5)})) for i in range(4)]
    calls.append(dataclasses.replace(calls[0], name="last", text="and now?", after="c0"))
    with serve(together(4, lambda request: says('{"n": 4}'))) as endpoint:
        (answers,) = at(endpoint).hold([Interview(id="a", calls=tuple(calls), images={})])
    assert endpoint.most_at_once == 4
    assert list(answers.scores) == ["c0", "c1", "c2", "c3", "last"]
    assert sorted(len(request["messages"]) for request in endpoint.requests) == [1, 1, 1, 1, 3]
