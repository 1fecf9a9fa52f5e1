"""Training stages with the reasoner: chains and image tokens, then everything end to end."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from got.checkpoint import load
from got.iconworld.edits import KINDS, chained, listed, pointed, sample_edit
from got.iconworld.placing import relation
from got.iconworld.plans import INTERVENTIONS, is_right, sample_intervention
from got.iconworld.referring import sample_reasoning_edit, told_apart
from got.iconworld.render import render
from got.iconworld.scenes import Scene, caption, chain_text, loosened, sample_scene, stable_rng
from got.iconworld.vocabulary import parse_phrase, vocabulary
from got.model import networks as models
from got.model.reasoner import Reasoner
from got.model.teacher_forcing import Conversation, TrainingBatch, encode_conversations, teacher_forced
from got.model.tokenizer import build_tokenizer
from got.plan.chain import Chain
from got.train import losses
from got.train.edits import EDIT_SHARE, judge_edits, mixed_rows
from got.train.trainer import Fit, Plan, averaged
from got.train.unet import Drawing, SceneTokens, describe, describe_edits, drop_semantic, sample_drops, spatial_latents
from got.train.vae import Setup
from got.util.precision import bf16, stream

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from got.iconworld.bank import EditBank
    from got.iconworld.scenes import SceneObject

_HELD_OUT = 96
_LOOSE_SHARE = 0.5  # of the scenes have boxes that are not on the grid of tens
_CHANGED_SHARE = 0.2  # of the scenes have a plan that a person changed: the image tokens follow it, not the prompt
_REASONING_SHARE = 0.45  # of the edits name their object in a way that takes thought
_GLOBAL_SHARE = 0.06  # of the edits change everything
_TWO_STEPS_SHARE = 0.15  # of the edits are followed by another one in the same instruction
_ASKED = 4  # of the batches of a pool ask where named objects are, and end without an image
_TWINS_SHARE = 0.5  # of the questions show two of a kind
_POOL = 16  # batches that are drawn at once and sorted by number of objects, so that little of a batch is padding


def chain_is_right(text: str, wanted: Scene, prompt: str) -> bool:
    """Whether a written chain names what a caption asks for: classes, numbers, named colours, and the relation."""
    regions = Chain.parse(text).regions
    found = [named for region in regions if (named := parse_phrase(region.text)) is not None]
    if Counter(name for name, _ in found) != Counter(item.name for item in wanted.objects):
        return False
    if any(item.color in prompt.split() and (item.name, item.color) not in found for item in wanted.objects):
        return False
    asked = next((r for r in ("left of", "right of", "above", "below") if f" {r} " in prompt), None)
    return asked is None or relation(regions[0].box_1000, regions[1].box_1000, margin=0.5) == asked


def reading_networks(setup: Setup) -> tuple[PreTrainedTokenizerBase, dict[str, Any]]:
    """Tokenizer, and the untrained reasoner (``mllm``) with its ``projector``."""
    tokenizer = build_tokenizer(vocabulary(edits=True))
    with models.seeded(setup.seed):
        mllm, projector = models.build_mllm(setup.config, tokenizer), models.build_projector(setup.config)
    return tokenizer, {"mllm": mllm, "projector": projector}


def drawing_networks(setup: Setup) -> dict[str, Any]:
    """UNet and scene tokens as the stage of edits has left them."""
    unet, tokens = models.build_unet(setup.config), SceneTokens(setup.config)
    return averaged(setup.folder, "edits", {"unet": unet, "tokens": tokens})


def fix_nulls(projector: models.SemanticProjector, tokens: SceneTokens) -> None:
    """The projection of zeros is the bias: it has to be what the UNet knows as no condition."""
    for layer, null in (
        (projector.output_projector, tokens.null),
        (projector.output_projector_add, tokens.null_pooled),
    ):
        layer.bias.data.copy_(null.data)
        layer.bias.requires_grad_(False)


_Example = tuple[Conversation, torch.Tensor]
"""A conversation, and what `describe` or `describe_edits` says of each of its images, (images, 6, 7)."""
_Batch = tuple[TrainingBatch, torch.Tensor]


def _draw_example(rng: np.random.Generator) -> _Example:
    if rng.random() < _CHANGED_SHARE:
        changed = sample_intervention(rng, str(rng.choice(INTERVENTIONS)))
        talk = Conversation(prompt=changed.instruction, chains=(changed.chain,), written=False)
        return talk, describe([changed.target])
    scene = sample_scene(rng)
    if rng.random() < _LOOSE_SHARE:
        scene = loosened(scene, rng)
    return Conversation(prompt=caption(scene, rng), chains=(chain_text(scene),)), describe([scene])


def _edit_example(rng: np.random.Generator, size_px: int) -> _Example:
    lot = rng.random()
    if lot < _REASONING_SHARE:
        steps = [sample_reasoning_edit(rng)]
    else:
        steps = [sample_edit(rng, "global" if lot > 1 - _GLOBAL_SHARE else None)]
    if rng.random() < _TWO_STEPS_SHARE:
        following = chained(steps[0], rng)
        steps += [] if following is None else [following]
    size_px *= int(rng.integers(1, 3))
    conversation = Conversation(
        prompt=" , then ".join(step.instruction for step in steps),
        chains=tuple(step.chain for step in steps),
        images=tuple(render(step.source, size_px).image for step in steps),
    )
    return conversation, describe_edits(steps)


def pointing_words(named: Sequence[tuple[str, SceneObject]]) -> tuple[str, str]:
    """A question for the places of objects, and its answer."""
    answer = [pointed(words, item, number) for number, (words, item) in enumerate(named)]
    return listed([words for words, _ in named]), listed(answer)


def _question(rng: np.random.Generator, size_px: int) -> _Example:
    while True:
        source = sample_edit(rng, twins=rng.random() < _TWINS_SHARE).source
        named = told_apart(source, rng)
        if named:
            break
    prompt, answer = pointing_words(named)
    image = render(source, size_px * int(rng.integers(1, 3))).image
    return Conversation(prompt=prompt, chains=(answer,), images=(image,), drawn=False), describe([])


class _Reading:
    """Batches for the stages with the reasoner; conversations of one batch are of one kind and about equally long."""

    def __init__(self, setup: Setup, tokenizer: PreTrainedTokenizerBase, mllm: Any) -> None:
        self.setup = setup
        self.tokenizer = tokenizer
        self.mllm = mllm
        self.processor = models.build_image_processor(setup.config)

    def pool(self, batch: int, number: int) -> list[_Batch]:
        """`_POOL` batches."""
        rng = stable_rng("reasoner", self.setup.seed, number)
        # Images come at this size or at twice that, and are shrunken as those are that people bring.
        looking, size_px = round(_POOL * EDIT_SHARE), self.setup.config.vision_image_px
        drawn = [_draw_example(rng) for _ in range((_POOL - looking) * batch)]
        asked = [_question(rng, size_px) for _ in range(_ASKED * batch)]
        edited = [_edit_example(rng, size_px) for _ in range((looking - _ASKED) * batch)]
        batches = []
        for examples in (drawn, asked, edited):
            examples.sort(key=lambda example: sum(map(len, example[0].chains)))
            batches += [examples[i : i + batch] for i in range(0, len(examples), batch)]
        return [self.encoded(batches[i]) for i in rng.permutation(_POOL)]

    def encoded(self, examples: Sequence[_Example]) -> _Batch:
        """Tensors of a batch."""
        conversations = [conversation for conversation, _ in examples]
        things = torch.cat([things for _, things in examples])
        return encode_conversations(self.tokenizer, conversations, self.processor).placed(self.mllm), things


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeldOutEval:
    """Prompts and edits that no stage trains on, and what share of the chains for them is right."""

    scenes: list[Scene]
    prompts: list[str]
    edits: EditBank

    @classmethod
    def of(cls, setup: Setup) -> HeldOutEval:
        """The setup's held-out captions and edits."""
        rng = stable_rng("held out captions", setup.seed)
        scenes = setup.held_out(_HELD_OUT).scenes
        return cls(
            scenes=scenes,
            prompts=[caption(scene, rng) for scene in scenes],
            edits=setup.held_out_edits(_HELD_OUT),
        )

    def examples(self) -> tuple[list[_Example], list[_Example]]:
        """The held-out prompts and edits in the form of training batches."""
        drawn = [
            (Conversation(prompt=prompt, chains=(chain_text(scene),)), describe([scene]))
            for prompt, scene in zip(self.prompts, self.scenes, strict=True)
        ]
        edited = [
            (Conversation(prompt=edit.instruction, chains=(edit.chain,), images=(source,)), describe_edits([edit]))
            for edit, source in zip(self.edits.edits, self.edits.sources, strict=True)
        ]
        return drawn, edited

    def chains(self, reasoner: Reasoner) -> dict[str, float]:
        """Shares of right chains; of edits overall and by kind."""
        drawn = reasoner.write(self.prompts, max_new_tokens=220)
        sources = [Image.fromarray(source) for source in self.edits.sources]
        edited = reasoner.write([edit.instruction for edit in self.edits.edits], sources, max_new_tokens=220)
        right = [chain_is_right(c, s, p) for c, s, p in zip(drawn.chains, self.scenes, self.prompts, strict=True)]
        plans = [is_right(text, edit) for text, edit in zip(edited.chains, self.edits.edits, strict=True)]
        by_kind = {
            f"plans_{kind}": float(np.mean([p for p, e in zip(plans, self.edits.edits, strict=True) if e.kind == kind]))
            for kind in KINDS
            if any(e.kind == kind for e in self.edits.edits)
        }
        ended = [not warning for warning in (*drawn.warnings, *edited.warnings)]
        shares = {"chains_right": right, "plans_right": plans, "chains_ended": ended}
        return {name: float(np.mean(values)) for name, values in shares.items()} | by_kind


def reasoner_of(setup: Setup, networks: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> Reasoner:
    """A `Reasoner` of these networks."""
    return Reasoner(
        mllm=networks["mllm"],
        tokenizer=tokenizer,
        image_processor=models.build_image_processor(setup.config),
        vision_image_px=setup.config.vision_image_px,
    )


def aligned(
    networks: dict[str, Any], tokens: SceneTokens, sequences: TrainingBatch, things: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Terms of the loss that teaches chains, and image tokens that say what the scene tokens of `things` say."""
    mllm = networks["mllm"]
    with bf16(mllm.device):
        forced = teacher_forced(mllm, sequences.to(mllm.device))
    if not len(forced.hidden):  # answers without an image
        return {"loss": forced.loss, "cross_entropy": forced.loss}
    context, pooled = networks["projector"](forced.hidden.float())
    alignment = losses.alignment_loss(context, pooled, *tokens(things.to(mllm.device)))
    return {"loss": alignment + forced.loss, "alignment": alignment, "cross_entropy": forced.loss}


def end_to_end(
    networks: dict[str, Any],
    drawing: Drawing,
    rows: np.ndarray,
    sequences: TrainingBatch,
    rng: np.random.Generator,
    *,
    layout: bool = True,
) -> dict[str, torch.Tensor]:
    """Terms of the paper's loss for rows of the bank; without a layout the spatial latents are their null form."""
    mllm, projector = networks["mllm"], networks["projector"]
    with bf16(mllm.device):
        forced = teacher_forced(mllm, sequences.to(mllm.device))
    keep = sample_drops(len(rows), rng)
    keep[:, 1] *= layout
    nulls = (projector.output_projector.bias, projector.output_projector_add.bias)
    context, pooled = drop_semantic(projector(forced.hidden.float()), nulls, keep, rng)
    noise = drawing.loss(rows, context, pooled, keep, rng)
    return {"loss": forced.loss + noise, "cross_entropy": forced.loss, "noise": noise}


def train_reasoner(plan: Plan, setup: Setup) -> None:
    """Chains by cross-entropy, and image tokens that say to the UNet what its true tokens said."""
    tokenizer, networks = reading_networks(setup)
    mllm, projector = networks["mllm"], networks["projector"]
    if setup.start is not None:
        warm_start(networks, tokenizer, setup.start)
    averaged(setup.folder, "grounding", {"mllm": mllm})
    tokens = drawing_networks(setup)["tokens"].eval().requires_grad_(False)
    fix_nulls(projector, tokens)
    tokens.to(setup.device)
    fit = Fit(plan, networks, setup.folder, setup.device)
    reading, exam = _Reading(setup, tokenizer, mllm), HeldOutEval.of(setup)
    batches = stream(functools.partial(reading.pool, plan.batch), fit.step, _POOL, setup.workers)

    def terms(batch: _Batch) -> dict[str, torch.Tensor]:
        return aligned(networks, tokens, *batch)

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        batch = next(batches)
        measured = terms(batch)
        looks, draws = batch[0].pixel_values is not None, "alignment" in measured
        kind = ("editing" if looks else "drawing") if draws else "pointing"
        return measured | {f"{kind}_{name}": value for name, value in measured.items() if name != "loss"}

    def check() -> dict[str, float]:
        held_out: dict[str, float] = {}
        for kind, examples in zip(("drawing", "editing"), exam.examples(), strict=True):
            measured = terms(reading.encoded(examples))
            held_out |= {f"held_out_{kind}_{k}": float(v) for k, v in measured.items() if k != "loss"}
        return held_out | exam.chains(reasoner_of(setup, networks, tokenizer))

    fit.run(loss_of, check)


def warm_start(networks: dict[str, Any], tokenizer: PreTrainedTokenizerBase, start: Path) -> None:
    """Take over the language model and the projector of a saved pipeline; words that it lacks keep their fresh rows."""
    pipeline = load(start)
    mllm = networks["mllm"]
    old, new = pipeline.mllm.model.language_model.state_dict(), mllm.model.language_model.state_dict()
    known, wanted = pipeline.tokenizer.get_vocab(), tokenizer.get_vocab()
    if known != wanted:
        pairs = [(row, known[word]) for word, row in wanted.items() if word in known]
        rows, sources = (list(column) for column in zip(*pairs, strict=True))
        words = new["embed_tokens.weight"].clone()
        words[rows] = old["embed_tokens.weight"][sources]
        old |= {"embed_tokens.weight": words}
    mllm.model.language_model.load_state_dict(old)
    networks["projector"].load_state_dict(pipeline.projector.state_dict())


def train_joint(plan: Plan, setup: Setup) -> None:
    """The paper's training: cross-entropy plus noise loss, which flows through the image tokens into the reasoner."""
    scenes, edits = setup.bank(), setup.edit_bank()
    tokenizer, untrained = reading_networks(setup)
    networks = averaged(setup.folder, "reasoner", untrained)
    networks |= {"unet": drawing_networks(setup)["unet"]}
    mllm, projector, unet = networks["mllm"], networks["projector"], networks["unet"]
    for layer in (projector.output_projector, projector.output_projector_add):
        layer.bias.requires_grad_(False)
    fit = Fit(plan, networks, setup.folder, setup.device)
    drawing = Drawing.of(unet, scenes, setup).with_edits(edits)
    reading, exam = _Reading(setup, tokenizer, mllm), HeldOutEval.of(setup)
    spatial = spatial_latents(drawing.vae, [chain_text(scene) for scene in exam.scenes], setup.config.image_size_px)
    null = projector.output_projector.bias

    def example(row: int, rng: np.random.Generator) -> _Example:
        if row < len(scenes.scenes):
            scene = scenes.scenes[row]
            return Conversation(prompt=caption(scene, rng), chains=(chain_text(scene),)), describe([scene])
        edit, source = edits.edits[row - len(scenes.scenes)], edits.sources[row - len(scenes.scenes)]
        talk = Conversation(prompt=edit.instruction, chains=(edit.chain,), images=(source,))
        return talk, describe_edits([edit])

    def batch_of(step: int) -> list[tuple[np.ndarray, _Batch]]:
        rng = stable_rng("joint captions", setup.seed, step)
        rows = mixed_rows(len(scenes.scenes), len(edits.edits), plan.batch, rng)
        return [(rows, reading.encoded([example(int(row), rng) for row in rows]))]

    batches = stream(batch_of, fit.step, 1, setup.workers)

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        rng = stable_rng("joint", setup.seed, step)
        rows, (sequences, _) = next(batches)
        return end_to_end(networks, drawing, rows, sequences, rng)

    def check() -> dict[str, float]:
        reasoner = reasoner_of(setup, networks, tokenizer)
        context, pooled = projector(reasoner.read(exam.prompts, [chain_text(scene) for scene in exam.scenes]).hidden)
        measured = drawing.judge(drawing.draw(context, null, pooled, spatial), exam.scenes, "joint")
        sources = [Image.fromarray(source) for source in exam.edits.sources]
        told, chains = ([getattr(edit, name) for edit in exam.edits.edits] for name in ("instruction", "chain"))
        context, pooled = projector(reasoner.read(told, chains, sources).hidden)
        return measured | judge_edits(drawing, exam.edits, context, null, pooled) | exam.chains(reasoner)

    fit.run(loss_of, check)
