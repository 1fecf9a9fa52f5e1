import dataclasses

import got_kit
import numpy as np
import pytest
import torch
from PIL import Image

from got.iconworld.scenes import stable_rng
from got.model.networks import build_image_processor
from got.model.reasoner import IMAGE_TOKENS, Reasoner, prompt_text
from got.model.teacher_forcing import Conversation, encode_conversations, teacher_forced
from got.model.tokenizer import IMAGE_PAD, IMAGE_START, image_token_ids

CLOSE = {"atol": 2e-4, "rtol": 1e-3}
BOTH = Conversation(prompt="a red apple", chains=(got_kit.BOTH,))
DOGS = Conversation(prompt="dogs", chains=("dogs",))


@pytest.fixture(scope="module")
def reasoner() -> Reasoner:
    return got_kit.pipeline().reasoner


@pytest.fixture(scope="module")
def image_inputs() -> tuple[np.ndarray, ...]:
    rng = stable_rng("forcing")
    return tuple(rng.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8))


def encode(*conversations):
    return encode_conversations(got_kit.make_tokenizer(), conversations, build_image_processor(got_kit.CONFIG))


def test_sequences_hold_prompt_chain_and_image_tokens():
    tokenizer = got_kit.make_tokenizer()
    batch = encode(BOTH, DOGS)
    assert batch.pixel_values is None
    assert batch.image_rows.tolist() == [0, 1]
    for row, talk in enumerate((BOTH, DOGS)):
        ids = batch.input_ids[row][batch.attention_mask[row].bool()]
        text = tokenizer.decode(ids)
        assert text.startswith(prompt_text(tokenizer, talk.prompt).lower() + talk.chains[0] + IMAGE_START)
        assert text.endswith("<|im_gen_0063|><|im_gen_end|><|endoftext|>")
        written = tokenizer.decode(batch.labels[row][batch.labels[row] >= 0])
        assert written == talk.chains[0] + IMAGE_START + "<|im_gen_end|><|endoftext|>"
        assert batch.input_ids[row][batch.image_positions[row]].tolist() == image_token_ids(tokenizer)


def test_a_second_step_looks_at_the_image_of_the_first(image_inputs):
    tokenizer = got_kit.make_tokenizer()
    batch = encode(DOGS, Conversation(prompt="dogs", chains=("dogs", "red apple"), images=image_inputs[:2]))
    assert batch.image_rows.tolist() == [0, 1, 1]
    assert batch.image_grid_thw.tolist() == [[1, 8, 8]] * 2
    ids = batch.input_ids[1][batch.attention_mask[1].bool()]
    text = tokenizer.decode(ids)
    assert text.count(IMAGE_PAD) == 2 * 16
    between = text[text.index("<|im_gen_end|>") :]
    assert between.startswith(f"<|im_gen_end|><|vision_start|>{IMAGE_PAD * 16}<|vision_end|>red apple{IMAGE_START}")
    written = tokenizer.decode(batch.labels[1][batch.labels[1] >= 0])
    assert written == (
        f"dogs{IMAGE_START}<|im_gen_end|><|vision_start|><|vision_end|>"
        f"red apple{IMAGE_START}<|im_gen_end|><|endoftext|>"
    )
    for positions, row in zip(batch.image_positions, batch.image_rows, strict=True):
        assert batch.input_ids[row][positions].tolist() == image_token_ids(tokenizer)


def test_the_pass_gives_the_librarys_loss_and_the_same_states_as_inference(reasoner):
    batch = encode(BOTH, DOGS)
    forced = teacher_forced(reasoner.mllm, batch)
    with torch.no_grad():
        reference = reasoner.mllm(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels)
    torch.testing.assert_close(forced.loss, reference.loss, **CLOSE)
    assert len(forced.logits) == len(forced.targets) == int((batch.labels >= 0).sum())
    states = reasoner.read([BOTH.prompt, DOGS.prompt], [*BOTH.chains, *DOGS.chains]).hidden.clone()
    torch.testing.assert_close(forced.hidden, states, **CLOSE)


def test_positions_found_beforehand_change_nothing(reasoner, image_inputs):
    images = image_inputs
    batch = encode(dataclasses.replace(BOTH, images=images[:1]), dataclasses.replace(DOGS, images=images[1:2]))
    placed = batch.placed(reasoner.mllm)
    assert placed.position_ids.shape == (3, *batch.input_ids.shape)
    with torch.no_grad():
        assert torch.equal(teacher_forced(reasoner.mllm, placed).hidden, teacher_forced(reasoner.mllm, batch).hidden)


def test_with_images_the_states_are_those_of_inference_too(reasoner, image_inputs):
    pairs = zip(("dogs", "red apple"), image_inputs[:2], strict=True)
    talks = [Conversation(prompt="dogs", chains=(chain,), images=(image,)) for chain, image in pairs]
    forced = teacher_forced(reasoner.mllm, encode(*talks))
    sources = [Image.fromarray(image) for image in image_inputs[:2]]
    states = reasoner.read(["dogs", "dogs"], ["dogs", "red apple"], sources).hidden.clone()
    assert forced.hidden.shape == (2, IMAGE_TOKENS, got_kit.CONFIG.hidden_dim)
    torch.testing.assert_close(forced.hidden, states, **CLOSE)
    assert not torch.allclose(forced.hidden, teacher_forced(reasoner.mllm, encode(DOGS, DOGS)).hidden, atol=0.1)


def test_gradients_of_the_image_tokens_reach_words_and_images(reasoner, image_inputs):
    talk = Conversation(prompt="a red apple", chains=("dogs",), images=image_inputs[:1])
    embeddings = reasoner.mllm.get_input_embeddings().weight
    patch = next(reasoner.mllm.model.visual.parameters())
    hidden = teacher_forced(reasoner.mllm, encode(talk)).hidden
    words, pixels = torch.autograd.grad(hidden.square().mean(), (embeddings, patch))
    assert words[image_token_ids(reasoner.tokenizer)].abs().sum(1).min() > 0
    assert words[reasoner.tokenizer(" dogs")["input_ids"]].abs().sum() == 0, "another piece than the bare word"
    assert pixels.abs().sum() > 0


def test_a_chain_that_a_person_changed_is_not_learned_but_obeyed():
    given = dataclasses.replace(BOTH, written=False)
    batch = encode(given, DOGS)
    assert (batch.labels[0] < 0).all()
    assert (batch.labels[1] >= 0).any()
    assert torch.equal(batch.input_ids, encode(BOTH, DOGS).input_ids)


def test_images_without_a_processor_are_refused(image_inputs):
    talk = Conversation(prompt="dogs", chains=("dogs",), images=image_inputs[:1])
    with pytest.raises(ValueError, match="Expected an image processor"):
        encode_conversations(got_kit.make_tokenizer(), [talk])
