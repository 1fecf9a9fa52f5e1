"""The released inference code's behaviour where ours differs on purpose: for comparisons, and to port its callers.

`ReferencePipeline` is a `GoTPipeline` with the released defaults; `ReferencePipeline.generate` takes the released
arguments. It differs from `GoTPipeline` in this, and in nothing else:

- One prompt at a time; up to 16 images per prompt, as many as the model starts.
- 50 steps of DDPM, whatever scheduler and number of steps the checkpoint suggests, at the UNet's usual size.
- Every image, of text-to-image too, is drawn in the given frame and then stretched to the source's aspect (or to the
  frame's own), so a frame that is not square is stretched twice: 128 x 64 pixels come out as 256 x 64.
- A colour that is no colour, or swapped corners, end the call (`ValueError`) instead of leaving a warning.
- Only what the model writes in the round that ends in an image is searched for boxes. `got_input` stands for
  everything up to there; what is searched then begins where the usual prompt would have ended, however long that is.
- The model is asked for the end of the image tokens and of a shown image, instead of being given them; one that wants
  to see an image before there is one gets an `IndexError`.
- ``<|im_end|>`` and the longest chain end a round, but not the conversation. The released code may go on for ever; here
  the conversation ends after 64 rounds with a `RuntimeError`.
- A chain that does not end in ``<|im_gen_start|>`` is not drawn; a model that ends without one has drawn nothing.

Not imitated, because it can only lose: in bfloat16 the released code has autoencoder, noise and latents in bfloat16,
too; here the autoencoder stays in float32 (see `got.checkpoint.load`), and so do noise and latents. Images of other
modes than RGB, which it hands on as they are, are converted.

Not imitated, because no result shows it: masks pass the VAE together, and branches of weight zero are not run. The
second pass over the whole sequence, which the states of every image come from, is made here as well.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DDPMScheduler

from got.model.config import GuidanceConfig
from got.model.outputs import Sampling, Turn, to_pil, with_aspect_of
from got.model.reasoner import IMAGE_TOKENS, ReasonerOutput
from got.model.sampling import Steps
from got.model.ssgm import Switches
from got.model.tokenizer import (
    END_OF_TEXT,
    IMAGE_END,
    IMAGE_PAD,
    IMAGE_START,
    VISION_END,
    VISION_START,
    Transcript,
    image_token_ids,
    token_id,
)
from got.pipeline import GoTPipeline
from got.plan.chain import Chain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

_STEPS = 50
_MAX_ROUNDS = 64
_MAX_IMAGES = 16
_DROPPED = (END_OF_TEXT, IMAGE_END, VISION_START, VISION_END)
_PROMPT_TYPES = ("t2i", "edit")
_FATAL = ("corners in the wrong order", "unknown mask colour")


@dataclasses.dataclass(slots=True, kw_only=True, eq=False)
class _RolloutState:
    """A conversation under way."""

    transcript: Transcript
    text: str = ""
    """All rounds, without the tokens that only steer."""
    turns: list[Turn] = dataclasses.field(default_factory=list)
    drawn: list[Image.Image] = dataclasses.field(default_factory=list)
    """The images before their last stretching."""


class ReferencePipeline(GoTPipeline):
    """A `GoTPipeline` that does as the released code does; this module's text lists how."""

    scheduler: Any
    _usual_turns = _MAX_IMAGES

    @torch.inference_mode()
    def generate(
        self,
        text_input: str,
        image: Image.Image | None = None,
        prompt_type: str = "t2i",
        got_input: str | None = None,
        only_return_got: bool = False,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = _STEPS,
        guidance_scale: float = 7.5,
        image_guidance_scale: float = 1.0,
        cond_image_guidance_scale: float = 4.0,
        do_classifier_free_guidance: bool = True,
        random_seed: int = 42,
        max_new_tokens: int = 1024,
        **generate_kwargs: Any,
    ) -> dict[str, Any]:
        """Answer one prompt, with the released code's arguments and defaults.

        Args:
            text_input: A caption or an instruction.
            image: Source image; where it is set, its aspect is that of the results.
            prompt_type: ``"t2i"`` or ``"edit"``: which words go before the text.
            got_input: A whole conversation to start from, instead of the prompt.
            only_return_got: Stop after the first round and return its whole conversation as text.
            height: Height of the frame in pixels.
            width: Width of the frame.
            num_inference_steps: Denoising steps.
            guidance_scale: a_t.
            image_guidance_scale: a_r.
            cond_image_guidance_scale: a_s.
            do_classifier_free_guidance: False draws with all conditions and no guidance.
            random_seed: Of the noise, the same for every image.
            max_new_tokens: Longest round.
            generate_kwargs: Passed on to `generate`.

        Returns:
            ``got_text`` and ``images``.

        Raises:
            ValueError: If an argument or a box cannot be used.
            IndexError: If the model wants to see an image before there is one.
            RuntimeError: If the conversation has no end.
        """
        if prompt_type not in _PROMPT_TYPES:
            raise ValueError(f"Expected prompt_type to be one of {', '.join(_PROMPT_TYPES)} but got {prompt_type!r}")
        scales = GuidanceConfig(
            semantic=guidance_scale, spatial=cond_image_guidance_scale, reference=image_guidance_scale
        )
        sampling = Sampling(
            size_px=self.size_px(width, height),
            steps=Steps(count=num_inference_steps),
            scales=scales if do_classifier_free_guidance else GuidanceConfig(semantic=1, spatial=1, reference=1),
            switches=Switches(),
            generators=torch.Generator("cpu").manual_seed(random_seed),
            max_turns=_MAX_IMAGES,
            max_new_tokens=max_new_tokens,
        )
        prompt = self.reasoner.transcript(text_input, image, edit=prompt_type == "edit")
        if only_return_got:
            opening = self._open(prompt, got_input, sampling, generate_kwargs)
            return {"got_text": self.tokenizer.decode(opening.ids), "images": []}
        rollout = self._run_rounds(prompt, got_input, sampling, generate_kwargs)
        self.maybe_free_model_hooks()
        return {"got_text": rollout.text, "images": [turn.image for turn in rollout.turns]}

    @property
    def _usual_steps(self) -> int:
        return _STEPS

    def _answer(
        self,
        prompts: list[str],
        images: list[Image.Image] | None,
        chains: list[str | Chain | None] | ReasonerOutput | None,
        sampling: Sampling,
    ) -> list[list[Turn]]:
        """Answer prompts one after the other; a given chain is the first round of its conversation."""
        if isinstance(chains, ReasonerOutput):
            raise ValueError("Expected chains as text, which begin a conversation in the reference's way")
        if sampling.output_type != "pil":
            raise ValueError(f"Expected output_type to be pil in the reference's way but got {sampling.output_type!r}")
        answers = []
        for row in range(len(prompts) * sampling.copies):
            asked = row // sampling.copies
            text, given = prompts[asked], None if chains is None else chains[asked]
            opening = self.reasoner.transcript(text, None if images is None else images[asked])
            got_input = None if given is None else f"{self.tokenizer.decode(opening.ids)}{given}{IMAGE_START}"
            rollout = self._run_rounds(opening, got_input, sampling.rows([row]), {})
            if not rollout.turns:
                raise ValueError(f"The model ended without an image for {text!r}; it wrote: {rollout.text!r}")
            answers.append(rollout.turns)
        return answers

    def _open(
        self, prompt: Transcript, got_input: str | None, sampling: Sampling, options: dict[str, Any]
    ) -> Transcript:
        """The conversation after the first round: given, or written."""
        if got_input is None:
            return self._round(prompt, sampling.max_new_tokens, options)
        ids = self.tokenizer(got_input, add_special_tokens=False)["input_ids"]
        return Transcript(ids=tuple(ids), images=prompt.images)

    def _run_rounds(
        self, prompt: Transcript, got_input: str | None, sampling: Sampling, options: dict[str, Any]
    ) -> _RolloutState:
        """Round by round, until the model ends or has drawn enough."""
        start, look, end = (token_id(self.tokenizer, token) for token in (IMAGE_START, VISION_START, END_OF_TEXT))
        rollout, before, noise = _RolloutState(transcript=prompt), len(prompt.ids), sampling.noise_states()
        for number in range(_MAX_ROUNDS):
            if number == 0:
                rollout.transcript = self._open(prompt, got_input, sampling, options)
            else:
                rollout.transcript = self._round(rollout.transcript, sampling.max_new_tokens, options)
            written = self.tokenizer.decode(rollout.transcript.ids[before:])
            rollout.text += _without(written, _DROPPED)
            last = rollout.transcript.ids[-1]
            if last == start:
                rollout.transcript = rollout.transcript.plus(image_token_ids(self.tokenizer, IMAGE_TOKENS))
                for generator, state in noise:
                    generator.set_state(state)
                self._draw_turn(rollout, _strict(_without(written, (*_DROPPED, IMAGE_START))), prompt.images, sampling)
            elif last == look and not rollout.drawn:
                raise IndexError("Expected an image to have been drawn before the model wants to see one")
            elif last == look:
                pads = [token_id(self.tokenizer, IMAGE_PAD)] * self.reasoner.pads
                rollout.transcript = rollout.transcript.plus(pads, [rollout.drawn[-1]])
            if last == end or len(rollout.turns) == sampling.max_turns:
                return rollout
            before = len(rollout.transcript.ids)
        raise RuntimeError(f"The model did not end within {_MAX_ROUNDS} rounds; it wrote: {rollout.text[:200]!r}")

    def _round(self, transcript: Transcript, max_new_tokens: int | None, options: dict[str, Any]) -> Transcript:
        """Let the model write until one of its stops, or one of Qwen's."""
        stops = [token_id(self.tokenizer, token) for token in (IMAGE_START, VISION_START, END_OF_TEXT)]
        own = self.mllm.generation_config.eos_token_id
        stops += own if isinstance(own, list) else [own] if own is not None else []
        if transcript.ids[-1] == token_id(self.tokenizer, IMAGE_PAD):
            # `generate` numbers what follows an image wrongly unless at least one token follows it already.
            transcript = self._add(transcript, stops, 1, options)
            if transcript.ids[-1] in stops or max_new_tokens == 1:
                return transcript
        return self._add(transcript, stops, max_new_tokens, options)

    def _add(
        self, transcript: Transcript, stops: list[int], max_new_tokens: int | None, options: dict[str, Any]
    ) -> Transcript:
        inputs = self.reasoner.batch([transcript])
        output = self.reasoner.generate(inputs, stops, max_new_tokens, **options)
        return transcript.plus(output.sequences[0, len(transcript.ids) :].tolist())

    def _draw_turn(
        self, rollout: _RolloutState, chain: Chain, sources: tuple[Image.Image, ...], sampling: Sampling
    ) -> None:
        """Draw the image whose image tokens end the conversation so far."""
        hidden = self.reasoner.states(self.reasoner.batch([rollout.transcript]))[:, -IMAGE_TOKENS:]
        references = [*sources, *rollout.drawn][-1:] or None
        if sampling.on_chains is not None:
            sampling.on_chains([chain])
        scheduler, self.scheduler = self.scheduler, DDPMScheduler.from_config(self.scheduler.config)
        try:
            latents = self.draw(hidden, [chain], references, sampling)
        finally:
            self.scheduler = scheduler
        (image,) = to_pil(self.decode(latents))
        rollout.drawn.append(image)
        aspect = sources[0].size if sources else sampling.size_px
        rollout.turns.append(Turn(image=with_aspect_of(aspect, image), chain=chain, warnings=chain.warnings))


def _strict(text: str) -> Chain:
    """The chain of a round; what the released code cannot draw is an error."""
    chain = Chain.parse(text)
    fatal = [warning for warning in chain.warnings if warning.startswith(_FATAL)]
    if fatal:
        raise ValueError(f"The released code cannot draw this chain: {fatal[0]}")
    return chain


def _without(text: str, tokens: Sequence[str]) -> str:
    for token in tokens:
        text = text.replace(token, "")
    return text
