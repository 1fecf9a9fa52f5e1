"""Several images per prompt: the mechanics, on untrained networks whose words are scripted."""

import json
import re
from pathlib import Path

import got_kit
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LogitsProcessor, LogitsProcessorList

from got import __main__ as command
from got import checkpoint
from got.conversation import Conversation
from got.model.outputs import Sampling, to_pil
from got.model.reasoner import IMAGE_TOKENS, Reasoner
from got.model.sampling import Steps
from got.model.ssgm import Switches
from got.model.tokenizer import END_OF_TEXT, IMAGE_END, IMAGE_PAD, IMAGE_START, VISION_END, VISION_START, token_id
from got.plan.chain import Chain
from got.released.reference import ReferencePipeline

ONE, LOOKING, BLIND, CUT = "dogs", "a red apple", "a blue dog", "a computer mouse"
IMAGES = {ONE: 1, LOOKING: 3, BLIND: 2, CUT: 9}
OPTIONS = {"num_inference_steps": 2, "max_new_tokens": 12}


class Script(LogitsProcessor):
    """Makes a model write two words per image, as many images as its prompt is worth, and look or not."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        # The reference asks the model for the ends of image tokens and images; ours gives them to it.
        self.asked = False

    def next_token(self, text):
        prompt = next(prompt for prompt in IMAGES if re.search(rf"process: {prompt}<", text))
        head, _, tail = text.rpartition(IMAGE_END)
        if not head:
            tail = text.rpartition("assistant\n")[2]
        if IMAGE_START in tail:
            return IMAGE_END
        if tail.endswith(IMAGE_PAD):
            return VISION_END
        if head and not tail:
            drawn = text.count(IMAGE_END)
            return END_OF_TEXT if drawn >= IMAGES[prompt] else VISION_START if prompt == LOOKING else " red"
        if prompt == CUT and head:
            return " dogs"
        words = tail.rpartition(VISION_END)[2].split()
        return " red" if not words else " apple" if len(words) == 1 else IMAGE_START

    def __call__(self, input_ids, scores):
        chosen = [self.next_token(self.tokenizer.decode(row)) for row in input_ids]
        scores[:] = -1e9
        for row, token in enumerate(chosen):
            scores[row, self.tokenizer.get_vocab()[token]] = 0
        return scores


@pytest.fixture
def pipe(monkeypatch):
    """The tiny pipeline, its language model following the script; everything else as it is."""
    pipe = got_kit.pipeline()
    generate, script = Reasoner.generate, LogitsProcessorList([Script(pipe.tokenizer)])
    monkeypatch.setattr(
        Reasoner, "generate", lambda self, *inputs, **k: generate(self, *inputs, **k | {"logits_processor": script})
    )
    return pipe


def reference_of(pipe):
    reference = ReferencePipeline(**pipe.components, scale=pipe.config.scale)
    reference.set_progress_bar_config(disable=True)
    return reference


def generators(count, first=5):
    return [got_kit.generator(first + i) for i in range(count)]


def same(first, second):
    """Images that differ by no more than rounding: a flipped grey level of one image moves the next a little."""
    assert first.size == second.size
    off = np.abs(np.asarray(first, int) - np.asarray(second, int))
    assert off.max() <= 8
    assert off.mean() < 0.2


def test_each_prompt_gets_the_images_that_its_chain_has(pipe):
    output = pipe([LOOKING, ONE, BLIND], max_turns=5, generator=generators(3), **OPTIONS)
    assert [len(turns) for turns in output.turns] == [3, 1, 2]
    assert [[str(turn.chain) for turn in turns] for turns in output.turns] == [[" red apple"] * n for n in (3, 1, 2)]
    assert all(not turn.warnings for turns in output.turns for turn in turns)
    for turns, image, chain in zip(output.turns, output.images, output.chains, strict=True):
        assert turns[-1].image is image
        assert turns[-1].chain == chain
    first, second, third = (np.asarray(turn.image, int) for turn in output.turns[0])
    assert np.abs(first - second).max() > 1
    assert np.abs(second - third).max() > 0


def test_one_image_is_the_default_and_the_limit_holds(pipe):
    assert [len(turns) for turns in pipe([LOOKING, BLIND], **OPTIONS).turns] == [1, 1]
    output = pipe([LOOKING, BLIND], max_turns=2, **OPTIONS)
    assert [len(turns) for turns in output.turns] == [2, 2]
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="max_turns to be a whole number from 1 up"):
            pipe(LOOKING, max_turns=wrong)


def test_the_first_image_does_not_depend_on_what_follows(pipe):
    alone = pipe(LOOKING, generator=got_kit.generator(5), **OPTIONS)
    followed = pipe(LOOKING, max_turns=3, generator=got_kit.generator(5), **OPTIONS)
    assert alone.images[0].tobytes() == followed.turns[0][0].image.tobytes()


def test_turns_do_not_depend_on_the_batch(pipe):
    prompts = [BLIND, ONE, LOOKING]
    together = pipe(prompts, max_turns=4, generator=generators(3), **OPTIONS)
    for row, prompt in enumerate(prompts):
        alone = pipe(prompt, max_turns=4, generator=got_kit.generator(5 + row), **OPTIONS)
        assert len(alone.turns[0]) == len(together.turns[row])
        for mine, theirs in zip(alone.turns[0], together.turns[row], strict=True):
            same(mine.image, theirs.image)


@torch.inference_mode()
def test_a_turn_starts_from_the_last_image_and_from_the_same_noise(pipe):
    """The second turn, put together by hand from the first one's image."""
    turns = pipe(LOOKING, max_turns=2, generator=got_kit.generator(5), **OPTIONS).turns[0]
    reasoner = pipe.reasoner
    thoughts, rows, _ = reasoner.continue_after_image(reasoner.write([LOOKING]).transcripts, [turns[0].image])
    (transcript,) = thoughts.transcripts
    assert (rows, transcript.images) == ([0], (turns[0].image,))
    text = pipe.tokenizer.decode(transcript.ids)
    assert text.count(IMAGE_PAD) == 16
    assert re.search(r"_0063\|><\|im_gen_end\|><\|vision_start\|>(<\|image_pad\|>)+<\|vision_end\|> red apple", text)
    # The states from the cache are those of a plain pass over the whole conversation.
    states = reasoner.states(reasoner.batch([transcript]))[:, -IMAGE_TOKENS:]
    torch.testing.assert_close(thoughts.hidden, states, atol=1e-5, rtol=1e-5)
    sampling = Sampling(
        size_px=(32, 32),
        steps=Steps(count=2),
        scales=pipe.got_config.text_to_image,
        switches=Switches(),
        generators=got_kit.generator(5),
    )
    latents = pipe.draw(states, [Chain.parse(" red apple")], [turns[0].image], sampling)
    same(to_pil(pipe.decode(latents))[0], turns[1].image)


def test_turns_without_a_generator_start_from_the_same_noise_too(pipe, monkeypatch):
    starts = []
    denoise = type(pipe)._denoise

    def watched(self, denoiser, shape, sampling):
        starts.append([torch.randn(2, generator=g.clone_state()).tolist() for g in sampling.generators])
        return denoise(self, denoiser, shape, sampling)

    monkeypatch.setattr(type(pipe), "_denoise", watched)
    pipe([LOOKING, BLIND], max_turns=3, **OPTIONS)
    assert [len(start) for start in starts] == [2, 2, 1]
    assert starts[0] == starts[1]
    assert starts[2] == starts[0][:1]
    assert starts[0][0] != starts[0][1]


def test_edits_and_given_chains_go_on_as_well(pipe):
    source = Image.effect_mandelbrot((60, 40), (-2, -1, 1, 1), 20)
    options = {"generator": got_kit.generator(1), "max_turns": 3, **OPTIONS}
    turns = pipe(LOOKING, image=source, chain=got_kit.APPLE, **options).turns[0]
    assert [str(turn.chain) for turn in turns] == [got_kit.APPLE, " red apple", " red apple"]
    assert {turn.image.size for turn in turns} == {(60, 40)}


@pytest.mark.parametrize(("output_type", "shape"), [("np", (32, 32, 3)), ("pt", (3, 32, 32)), ("latent", (4, 8, 8))])
def test_other_forms_of_images_have_turns_too(pipe, output_type, shape):
    output = pipe([LOOKING, ONE], max_turns=2, output_type=output_type, generator=generators(2), **OPTIONS)
    assert output.images.shape == (2, *shape)
    assert [len(turns) for turns in output.turns] == [2, 1]
    assert output.turns[0][0].image.shape == shape


def test_a_chain_that_is_cut_off_is_not_drawn_and_warned_of(pipe):
    turns = pipe(CUT, max_turns=4, **OPTIONS).turns[0]
    assert len(turns) == 1
    assert turns[0].warnings == ("the next chain was cut off, so nothing was drawn for it",)


def test_a_size_that_is_given_is_the_size_that_comes(pipe):
    source = Image.new("RGB", (60, 40))
    assert pipe(ONE, image=source, width=32, height=16, **OPTIONS).images[0].size == (32, 16)
    assert pipe(ONE, width=64, height=32, **OPTIONS).images[0].size == (64, 32)


# ------------------------------------------------------------------------------------------------------ the reference


def test_the_reference_goes_on_by_itself_and_writes_the_same(pipe):
    ours = pipe([LOOKING, ONE], max_turns=9, **OPTIONS)
    output = reference_of(pipe)([LOOKING, ONE], generator=generators(2), **OPTIONS)
    assert [len(turns) for turns in output.turns] == [3, 1]
    assert output.chains == ours.chains
    (story,) = [reference_of(pipe).generate(BLIND, num_inference_steps=1)]
    assert story["got_text"] == f" red apple{IMAGE_START} red apple{IMAGE_START}"
    assert len(story["images"]) == 2


def test_the_reference_takes_50_steps_of_ddpm_and_stretches_twice(pipe):
    steps = []
    hook = pipe.unet.register_forward_pre_hook(lambda _unet, inputs: steps.append(int(inputs[1])))
    scheduler = pipe.scheduler
    (image,) = reference_of(pipe)(ONE, width=64, height=32, max_new_tokens=12).images
    hook.remove()
    assert len(steps) == 50
    assert pipe.scheduler is scheduler
    assert image.size == (128, 32)


@pytest.mark.parametrize("chain", [got_kit.APPLE.replace("(red)", "(dogs)"), got_kit.APPLE.replace("(480,", "(4,")])
def test_the_reference_cannot_draw_what_ours_mends(pipe, chain):
    assert len(pipe(ONE, chain=chain, **OPTIONS).warnings[0]) == 1
    with pytest.raises(ValueError, match="cannot draw"):
        reference_of(pipe)(ONE, chain=chain, **OPTIONS)


def test_conversations_without_an_end_end_in_an_error(pipe, monkeypatch):
    reference = reference_of(pipe)
    with pytest.raises(RuntimeError, match="did not end within 64 rounds"):
        reference.generate(CUT, num_inference_steps=1, max_new_tokens=3)
    monkeypatch.setattr(Script, "next_token", lambda self, text: END_OF_TEXT)
    with pytest.raises(ValueError, match="without an image"):
        reference(ONE, **OPTIONS)
    monkeypatch.setattr(Script, "next_token", lambda self, text: VISION_START)
    with pytest.raises(IndexError):
        reference(ONE, **OPTIONS)


def test_the_references_other_arguments(pipe):
    reference = reference_of(pipe)
    for wrong in ({"prompt_type": "t2v"}, {"width": 30}):
        with pytest.raises(ValueError, match=f"got .*{re.escape(str(next(iter(wrong.values()))))}"):
            reference.generate(ONE, **wrong)
    with pytest.raises(ValueError, match="output_type"):
        reference(ONE, output_type="np")
    text = reference.generate(ONE, only_return_got=True)["got_text"]
    assert text.endswith(f"assistant\n red apple{IMAGE_START}")
    assert token_id(pipe.tokenizer, IMAGE_START) == pipe.tokenizer(text)["input_ids"][-1]


def test_a_conversation_keeps_every_image_of_a_request(pipe):
    talk = Conversation(pipe, max_turns=4, **OPTIONS)
    last = talk.say(LOOKING)
    assert [(entry.kind, entry.source) for entry in talk.entries] == [("drawn", None), ("edited", 0), ("edited", 1)]
    assert talk.entry is last
    assert talk.undo() is talk.entries[1]
    together = pipe(LOOKING, max_turns=4, generator=got_kit.generator(42), **OPTIONS).turns[0]
    for entry, turn in zip(talk.entries, together, strict=True):
        same(entry.image, turn.image)
        assert entry.chain == str(turn.chain)


def test_the_command_line_keeps_every_image_of_a_request(pipe, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    checkpoint.save_fp16(pipe, "tiny")
    words = ["generate", LOOKING, "--max-turns", "4", "--steps", "1", "--checkpoint", "tiny", "--device", "cpu"]
    assert command.main(words) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [turn["image"] for turn in record["turns"]] == ["got-turn-0.png", "got-turn-1.png"]
    for name in ("got-turn-0.png", "got-turn-1.png", "got.png"):
        with Image.open(name) as image:
            assert image.size == (32, 32)
    assert command.main(words) == 2
    assert command.main([*words, "--overwrite", "--max-turns", "1"]) == 0
    assert not Path("got-turn-0.png").exists()


def test_a_given_plan_is_one_image_whatever_is_asked_beside_it(pipe, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    checkpoint.save_fp16(pipe, "tiny")
    Image.new("RGB", (32, 32), "teal").save("source.png")
    requests = [{"prompt": LOOKING}, {"prompt": LOOKING, "chain": got_kit.APPLE}, {"prompt": ONE}]
    Path("prompts.jsonl").write_text("".join(json.dumps(request) + "\n" for request in requests))
    words = ["edit", "source.png", "--prompts", "prompts.jsonl", "--output", "out", "--steps", "1"]
    assert command.main([*words, "--checkpoint", "tiny", "--device", "cpu", "--batch-size", "3"]) == 0
    records = json.loads(capsys.readouterr().out.splitlines()[-1])["pictures"]
    assert [len(record.get("turns", [])) for record in records] == [2, 0, 0]
    assert records[1]["chain"] == got_kit.APPLE
    assert [record["image"] for record in records] == [f"out/000{i}.png" for i in range(3)]
