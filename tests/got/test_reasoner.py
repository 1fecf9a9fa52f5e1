import got_kit
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import GenerationConfig

from got.model.networks import seeded
from got.model.reasoner import IMAGE_TOKENS, Reasoner, prompt_text
from got.model.tokenizer import END_OF_TEXT, IMAGE_PAD, IMAGE_START, build_tokenizer, image_token_ids, token_id

PROMPTS = ["a red apple", "dogs", "a blue dog to the left of a red computer mouse and a red apple"]
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def reasoner():
    pipe = got_kit.pipeline()
    return Reasoner(mllm=pipe.mllm, tokenizer=pipe.tokenizer, image_processor=pipe.image_processor, vision_image_px=64)


@pytest.fixture(scope="module")
def image_inputs():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40 + 9 * i, 50, 3), dtype=np.uint8)) for i in range(3)]


def write(reasoner, prompts, images=None, tokens=24, every=7):
    """Chains of a random model, whose words all have a space before them: else they could not be encoded again."""
    stops = got_kit.stop_sometime(reasoner.tokenizer, every)
    unspaced = [i for piece, i in reasoner.tokenizer.get_vocab().items() if piece.isalpha()]
    return reasoner.write(prompts, images, tokens, logits_processor=stops, suppress_tokens=unspaced)


def full_pass(reasoner, prompt, chain_ids, image=None):
    """The plain way: one sequence, no padding, no cache, positions left to the library; the last 64 states."""
    tokenizer, mllm = reasoner.tokenizer, reasoner.mllm
    vision, text = {}, prompt_text(tokenizer, prompt, edit=image is not None)
    if image is not None:
        square = image.convert("RGB").resize((64, 64), Image.Resampling.BICUBIC)
        vision = dict(reasoner.image_processor(images=[square], return_tensors="pt"))
        text = text.replace(IMAGE_PAD, IMAGE_PAD * 16)
    ids = tokenizer(text)["input_ids"] + [*chain_ids, token_id(tokenizer, IMAGE_START), *image_token_ids(tokenizer)]
    input_ids = torch.tensor([ids])
    if vision:
        vision["mm_token_type_ids"] = (input_ids == token_id(tokenizer, IMAGE_PAD)).int()
    with torch.no_grad():
        mllm.model.rope_deltas = None
        return mllm(input_ids=input_ids, output_hidden_states=True, **vision).hidden_states[-1][0, -IMAGE_TOKENS:]


def chain_ids(reasoner, chain):
    """Ids of a chain that a random model wrote; decoding is exact, so encoding is its inverse."""
    ids = reasoner.tokenizer(chain)["input_ids"] if chain else []
    assert reasoner.tokenizer.decode(ids) == chain
    return ids


@pytest.mark.parametrize("with_images", [False, True])
def test_states_from_the_cache_equal_a_full_pass_though_chains_end_apart(reasoner, image_inputs, with_images):
    images = image_inputs if with_images else None
    thoughts = write(reasoner, PROMPTS, images)
    lengths = [len(chain_ids(reasoner, chain)) for chain in thoughts.chains]
    assert len(set(lengths)) > 1, "the rows must end at different lengths for this test to say anything"
    for i, (prompt, chain) in enumerate(zip(PROMPTS, thoughts.chains, strict=True)):
        expected = full_pass(reasoner, prompt, chain_ids(reasoner, chain), images and images[i])
        torch.testing.assert_close(thoughts.hidden[i], expected, **CLOSE)


@pytest.mark.parametrize("with_images", [False, True])
def test_a_prompt_does_not_depend_on_its_batch(reasoner, image_inputs, with_images):
    images = image_inputs if with_images else None
    together = write(reasoner, PROMPTS, images)
    for i, prompt in enumerate(PROMPTS):
        alone = write(reasoner, [prompt], images and [images[i]])
        assert alone.chains == [together.chains[i]]
        torch.testing.assert_close(alone.hidden[0], together.hidden[i], **CLOSE)


def test_a_chain_cut_off_by_its_length_is_warned_of_and_still_read_right(reasoner):
    thoughts = write(reasoner, PROMPTS, tokens=5, every=9)
    cut = [bool(warnings) for warnings in thoughts.warnings]
    assert any(cut)
    assert not all(cut)
    for i, prompt in enumerate(PROMPTS):
        assert cut[i] == (len(chain_ids(reasoner, thoughts.chains[i])) == 5)
        expected = full_pass(reasoner, prompt, chain_ids(reasoner, thoughts.chains[i]))
        torch.testing.assert_close(thoughts.hidden[i], expected, **CLOSE)


def test_a_chain_that_ends_in_the_wrong_token_is_warned_of_and_still_read_right(reasoner):
    end = token_id(reasoner.tokenizer, END_OF_TEXT)
    thoughts = reasoner.write(["dogs"], max_new_tokens=6, forced_eos_token_id=end)
    assert thoughts.warnings == [("the chain did not end in <|im_gen_start|>",)]
    ids = chain_ids(reasoner, thoughts.chains[0])
    assert end not in ids
    torch.testing.assert_close(thoughts.hidden[0], full_pass(reasoner, "dogs", ids), **CLOSE)


def test_given_chains_are_read_in_one_padded_pass(reasoner, image_inputs):
    chains = [got_kit.APPLE, "", got_kit.BOTH]
    for images in (None, image_inputs):
        thoughts = reasoner.read(PROMPTS, chains, images)
        assert thoughts.chains == chains
        for i, (prompt, chain) in enumerate(zip(PROMPTS, chains, strict=True)):
            expected = full_pass(reasoner, prompt, chain_ids(reasoner, chain), images and images[i])
            torch.testing.assert_close(thoughts.hidden[i], expected, **CLOSE)


def test_equal_prompts_are_computed_once(reasoner, monkeypatch):
    rows = []
    generate = type(reasoner.mllm).generate
    monkeypatch.setattr(
        type(reasoner.mllm), "generate", lambda self, **k: rows.append(len(k["input_ids"])) or generate(self, **k)
    )
    thoughts = write(reasoner, ["dogs", "a red apple", "dogs", "dogs"])
    assert rows == [2]
    assert thoughts.chains[0] == thoughts.chains[2] == thoughts.chains[3]
    assert torch.equal(thoughts.hidden[0], thoughts.hidden[3])


def test_sampled_chains_of_equal_prompts_differ(reasoner):
    with seeded(0):
        thoughts = reasoner.write(["dogs"] * 6, None, 8, do_sample=True, temperature=2.0)
    assert len(set(thoughts.chains)) > 1


@pytest.mark.parametrize("name", ["num_beams", "num_return_sequences"])
def test_more_than_one_chain_for_a_prompt_is_refused(reasoner, name):
    with pytest.raises(ValueError, match=f"Expected {name} to be 1, one chain per prompt, but got 3"):
        reasoner.write(["dogs"], None, 8, do_sample=True, **{name: 3})


def test_a_configuration_of_generate_is_refused_whole(reasoner):
    with pytest.raises(ValueError, match="one by one but got a generation_config"):
        reasoner.write(["dogs"], None, 8, generation_config=GenerationConfig(do_sample=True))


@pytest.mark.parametrize("value", [0, -1, 2.5, True])
def test_a_longest_chain_that_is_none_is_refused(reasoner, value):
    with pytest.raises(ValueError, match="max_new_tokens to be a whole number from 1 up but got"):
        reasoner.write(["dogs"], None, value)


@pytest.mark.parametrize("given", ["a <|image_pad|>", "<|im_gen_start|>", "<|im_gen_0007|>"])
def test_the_models_own_tokens_are_refused_in_prompts_and_chains(reasoner, given):
    with pytest.raises(ValueError, match="own token"):
        reasoner.write([given])
    with pytest.raises(ValueError, match="words and boxes"):
        reasoner.read(["dogs"], [given])


def test_a_reasoner_without_an_image_processor_says_so(reasoner, image_inputs):
    blind = Reasoner(mllm=reasoner.mllm, tokenizer=reasoner.tokenizer)
    with pytest.raises(ValueError, match="image processor"):
        blind.write(["dogs"], image_inputs[:1])


@pytest.mark.parametrize(
    "text",
    [
        got_kit.BOTH,
        f"{got_kit.APPLE}, a blue dog. red: (1000,7)!",
        "a  red\napple ",
        "<|im_start|>user\na photo of 12 dogs<|im_end|>\n",
        "dogs<|im_gen_start|><|im_gen_0000|><|im_gen_0063|><|im_gen_end|><|endoftext|>",
    ],
)
def test_decoding_gives_back_the_text_exactly(text):
    tokenizer = build_tokenizer(got_kit.WORDS)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_unknown_words_become_one_token_and_capitals_do_not_matter():
    tokenizer = build_tokenizer(got_kit.WORDS)
    assert tokenizer.decode(tokenizer("A Photo of zebras")["input_ids"]) == "a photo of<|unk|>"


def test_numbers_are_read_digit_by_digit():
    tokenizer = build_tokenizer(got_kit.WORDS)
    assert tokenizer.tokenize("(120,300),(48") == ["(", "1", "2", "0", ",", "3", "0", "0", "),(", "4", "8"]


def test_a_tokenizer_without_the_image_tokens_is_refused():
    with pytest.raises(ValueError, match="im_gen_0032"):
        image_token_ids(build_tokenizer(got_kit.WORDS, image_tokens=32))
