"""Questions about the same images: what stands before their words is read once, and every answer stays the same."""

import contextlib
import dataclasses

import pytest
import torch
from PIL import Image
from vlm_kit import build

from got.util.images import open_image, png_bytes
from got.vlm.clients import AskParams
from got.vlm.local import KEPT, KINDS, MOST, TransformersBackend
from got.vlm.messages import ASSISTANT, SYSTEM, USER, ImageFile, Message, user

RELATIVE = 1e-4
"""By so much a probability may differ between the two ways, in float32."""
WORDS = ("Is it red? Say it in a word.", "How many are there?", "Is the one left of the other?", "Why?")
CHOICES = ("Yes", "No", " three", "3")


def file(color, size=(56, 84)):
    return ImageFile(data=png_bytes(Image.new("RGB", size, color)))


RED, BLUE = file("red"), file("blue", (112, 56))


def about(*parts):
    return (Message(role=USER, parts=parts),)


def whole(backend, messages, params):
    """The answer by transformers' own means: the whole conversation in one go. Its text, and `CHOICES`' chances."""
    model, processor = backend._model, backend._processor
    images = [open_image(part.data) for turn in messages for part in turn.parts if isinstance(part, ImageFile)]
    turns = [
        {"role": turn.role, "content": [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
                                        for part in turn.parts]}
        for turn in messages
    ]  # fmt: skip
    text = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    inputs = processor(text=[text], images=images or None, return_tensors="pt")
    with torch.inference_mode():
        written = model.generate(**inputs, do_sample=False, max_new_tokens=params.max_tokens)
        chances = model(**inputs).logits[0, -1].double().softmax(-1)
    answer = processor.batch_decode(written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
    first = {word: float(chances[processor.tokenizer.encode(word)[0]]) for word in CHOICES}
    return answer, first, int(inputs["input_ids"].shape[1])


@contextlib.contextmanager
def looked_at(backend):
    """Counts how often the model looks at images."""
    seen = []
    hook = backend._model.model.visual.register_forward_hook(lambda *_: seen.append(1))
    yield seen
    hook.remove()


CONVERSATIONS = {
    "one image": [about(RED, words) for words in WORDS],
    "two images": [about("A:", RED, "B:", BLUE, words) for words in WORDS],
    "by turns": [about(image, words) for words in WORDS for image in (RED, BLUE)],
    "a dialogue": [
        (
            Message(role=SYSTEM, parts=("Be brief.",)),
            Message(role=USER, parts=("Describe this.", BLUE)),
            Message(role=ASSISTANT, parts=("A blue bar.",)),
            Message(role=USER, parts=(words,)),
        )
        for words in WORDS
    ],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_answers_and_probabilities_are_those_of_whole_conversations(tmp_path, kind, name):
    backend = TransformersBackend(str(build(tmp_path / "m", kind=kind)))
    params = AskParams(max_tokens=12, spellings=CHOICES)
    asked = CONVERSATIONS[name]
    with looked_at(backend) as seen:
        replies = [backend.answer(messages, params) for messages in asked]
    assert len(seen) == (2 if name == "by turns" else 1)
    for messages, reply in zip(asked, replies, strict=True):
        text, chances, tokens = whole(backend, messages, params)
        assert (reply.text, reply.tokens_in) == (text, tokens)
        assert reply.spelled == pytest.approx(chances, rel=RELATIVE)
    assert len({reply.text for reply in replies}) > len(replies) / 2


@contextlib.contextmanager
def batches(backend):
    """Notes how many conversations the model goes on with at a time, for each token."""
    seen = []
    hook = backend._model.lm_head.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    yield seen
    hook.remove()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_questions_about_an_image_are_one_batch_and_answered_as_one_by_one(tmp_path, kind, name):
    backend = TransformersBackend(str(build(tmp_path / "m", kind=kind)))
    params = AskParams(max_tokens=12, spellings=CHOICES)
    asked = CONVERSATIONS[name]
    with looked_at(backend) as seen, batches(backend) as rows:
        replies = backend.answers(tuple((messages, CHOICES) for messages in asked), params)
    assert len(seen) == (2 if name == "by turns" else 1)
    assert rows.count(len(WORDS)) >= len(rows) - 2  # but for the first token behind each image
    alone = TransformersBackend(str(tmp_path / "m"))
    for messages, reply in zip(asked, replies, strict=True):
        text, chances, tokens = whole(backend, messages, params)
        assert (reply.text, reply.tokens_in) == (text, tokens)
        assert reply.spelled == pytest.approx(chances, rel=RELATIVE)
        one = alone.answer(messages, params)
        assert (reply.text, reply.tokens_in, reply.tokens_out, reply.finish) == (
            one.text, one.tokens_in, one.tokens_out, one.finish)  # fmt: skip
        assert reply.spelled == pytest.approx(one.spelled, rel=RELATIVE)


def test_an_answer_that_ends_before_others_of_its_batch_is_cut_there(tmp_path):
    backend, params = TransformersBackend(str(build(tmp_path / "m"))), AskParams(max_tokens=12)
    asked, model = CONVERSATIONS["one image"], backend._model
    written = model.generate(**backend._prefixes.inputs(asked[:1]), do_sample=False, max_new_tokens=12)
    model.generation_config.eos_token_id = [model.generation_config.eos_token_id, int(written[0, -9])]
    replies = backend.answers(tuple((messages, ()) for messages in asked), params)
    alone = [backend.answer(messages, params) for messages in asked]
    assert list(map(dataclasses.asdict, replies)) == list(map(dataclasses.asdict, alone))
    assert (replies[0].finish, replies[0].tokens_out <= 4) == ("stop", True)
    assert len({reply.tokens_out for reply in replies}) > 1


def test_many_questions_are_several_batches(tmp_path):
    backend = TransformersBackend(str(build(tmp_path / "m")))
    asked = tuple((about(RED, f"Is it number {number}?"), CHOICES) for number in range(MOST + 3))
    with batches(backend) as rows:
        replies = backend.answers(asked, AskParams(max_tokens=1))
    assert rows == [1, MOST, 3]  # the image, then its questions
    assert len(replies) == len(asked)


def test_an_answer_is_the_same_to_the_last_bit_whatever_was_asked_before(tmp_path):
    place, params = str(build(tmp_path / "m")), AskParams(max_tokens=6, spellings=CHOICES)
    asked = [about(image, words) for words in WORDS for image in (RED, BLUE)]
    forward, backward = TransformersBackend(place), TransformersBackend(place)
    first = [forward.answer(messages, params) for messages in asked]
    again = [backward.answer(messages, params) for messages in asked[::-1]][::-1]
    alone = TransformersBackend(place).answer(asked[5], params)
    assert list(map(dataclasses.asdict, first)) == list(map(dataclasses.asdict, again))
    assert dataclasses.asdict(alone) == dataclasses.asdict(first[5])


@pytest.mark.parametrize(
    "messages",
    [user("Is it red?", [RED.data]), user("Is it red?"), about(RED, "Is it <|vision_start|>red?")],
    ids=["words first", "no image", "marks"],
)
def test_other_conversations_are_read_as_a_whole_or_as_they_stand(tmp_path, messages):
    backend = TransformersBackend(str(build(tmp_path / "m")))
    params = AskParams(max_tokens=6, spellings=CHOICES)
    reply = backend.answer(messages, params)
    text, chances, tokens = whole(backend, messages, params)
    assert (reply.text, reply.tokens_in) == (text, tokens)
    assert reply.spelled == pytest.approx(chances, rel=RELATIVE)


def test_few_beginnings_are_remembered(tmp_path):
    backend, params = TransformersBackend(str(build(tmp_path / "m"))), AskParams(max_tokens=1)
    images = [file((40 * number, 0, 0)) for number in range(KEPT + 1)]
    with looked_at(backend) as seen:
        for image in (*images, images[-1], images[0]):
            backend.answer(about(image, "Why?"), params)
    assert len(seen) == KEPT + 2  # the first one was forgotten
