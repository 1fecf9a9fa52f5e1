"""The variants of the paper's Table 3 at mini's size: what chains, their layouts and pretraining are worth.

All start from a saved pipeline, whose autoencoder and UNet stand for SDXL. The first three get a language model from
nothing, the last one keeps the pipeline's, which has been trained for much longer.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from got.checkpoint import load, save_fp16
from got.iconworld.scenes import Scene, caption, chain_text, loosened, sample_scene, stable_rng
from got.model import networks as models
from got.model.teacher_forcing import Conversation, TrainingBatch, encode_conversations
from got.pipeline import GoTPipeline
from got.train.reasoner import aligned, chain_is_right, end_to_end, fix_nulls, reasoner_of
from got.train.trainer import Fit, Plan, averaged
from got.train.unet import Drawing, SceneTokens, describe, load_tokens
from got.train.vae import contact_sheet
from got.util.errors import UserError
from got.util.files import read_lines, read_object, replacing_folder, write_json
from got.util.hub import MINI_PATH
from got.util.precision import has_native_dtype, stream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from got.train.vae import Setup

_LOOSE_SHARE = 0.5  # of the scenes have boxes that are not on the grid of tens
_SETTINGS = "settings.json"
_POOL = 16  # batches that are drawn at once and sorted by length, so that little of a batch is padding
_HELD_OUT, _SHOWN = 96, 24
_SECONDS = {"chains": 0.33, "prompts": 0.2, "joint": 1.7}
"""Of a step of the usual size on two cores of an EPYC Zen 4: the reasoner with and without chains, all end to end."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A row of Table 3."""

    name: str
    """Name of its folder."""
    title: str
    """The row's name in the paper."""
    chains: bool
    """Whether it writes a chain, or has image tokens follow the prompt at once."""
    layout: bool
    """Whether the UNet gets the chain's boxes."""
    pretrained: bool = False
    """Whether its language model is the pipeline's that all start from."""

    @property
    def reading(self) -> str:
        """Its stage without the UNet, which "+ GoT" and "+ SSGM" share because it does not depend on drawn boxes.

        >>> [variant.reading for variant in VARIANTS]
        ['prompts', 'chains', 'chains', 'chains']
        """
        return "chains" if self.chains else "prompts"


VARIANTS = (
    Variant(name="baseline", title="Baseline", chains=False, layout=False),
    Variant(name="got", title="+ GoT", chains=True, layout=False),
    Variant(name="ssgm", title="+ SSGM", chains=True, layout=True),
    Variant(name="full", title="GoT Framework", chains=True, layout=True, pretrained=True),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """How much is trained; the same for all variants."""

    steps: int = 4_000
    """Steps of each language model that starts from nothing."""
    joint_steps: int = 300
    """Steps of each variant, end to end."""
    batch: int = 16
    joint_batch: int = 32

    def plan(self, stage: str) -> Plan:
        """How a stage is run: ``"chains"`` and ``"prompts"`` are those of the reasoner, the others end to end."""
        reading = stage in ("chains", "prompts")
        return Plan(
            stage=stage,
            minutes=math.inf,
            steps=self.steps if reading else self.joint_steps,
            batch=self.batch if reading else self.joint_batch,
            lr=2e-3 if reading else 1e-4,
            ema_decay=0.998 if reading else 0.99,
            warmup_steps=200 if reading else 20,
        )

    def seconds_left(self, folder: Path) -> float:
        """What is still to do, at the pace of `_SECONDS`."""
        steps = {"prompts": self.steps, "chains": self.steps}
        steps |= {f"joint-{variant.name}": self.joint_steps for variant in VARIANTS}
        return sum(_SECONDS[s.partition("-")[0]] * (count - _last(folder, s)["step"]) for s, count in steps.items())


class VariantDataset:
    """What all variants are taught: the same scenes in the same order, with a chain or without."""

    def __init__(self, setup: Setup, tokenizer: PreTrainedTokenizerBase) -> None:
        self.setup, self.tokenizer = setup, tokenizer

    def pool(self, batch: int, number: int) -> list[list[tuple[str, Scene]]]:
        """`_POOL` batches of captions and scenes; those of a batch have chains of about the same length."""
        rng = stable_rng("variants", self.setup.seed, number)
        examples = []
        for _ in range(_POOL * batch):
            scene = sample_scene(rng)
            if rng.random() < _LOOSE_SHARE:
                scene = loosened(scene, rng)
            examples.append((caption(scene, rng), scene))
        examples.sort(key=lambda example: len(chain_text(example[1])))
        return [examples[i * batch : (i + 1) * batch] for i in rng.permutation(_POOL)]

    def rows(self, scenes: Sequence[Scene], batch: int, step: int) -> tuple[np.ndarray, list[tuple[str, Scene]]]:
        """Rows of the bank for one step of the end-to-end training, with captions."""
        rng = stable_rng("variants joint", self.setup.seed, step)
        rows = rng.integers(0, len(scenes), batch)
        return rows, [(caption(scenes[row], rng), scenes[row]) for row in rows]

    def encoded(self, examples: Sequence[tuple[str, Scene]], *, chains: bool) -> TrainingBatch:
        """Whole sequences; without chains the image tokens are all that answers a prompt."""
        return encode_conversations(
            self.tokenizer,
            [Conversation(prompt=text, chains=(chain_text(scene) if chains else "",)) for text, scene in examples],
        )

    def held_out(self) -> list[tuple[str, Scene]]:
        """Captions and scenes that nothing is trained on."""
        rng = stable_rng("variants held out", self.setup.seed)
        scenes = [sample_scene(rng) for _ in range(min(_HELD_OUT, self.setup.scenes))]
        return [(caption(scene, rng), scene) for scene in scenes]

    def examine(self, networks: dict[str, Any], *, chains: bool) -> dict[str, float]:
        """Share of held-out captions that it answers by a right chain, or by none where it is to write none."""
        examples = self.held_out()
        written = reasoner_of(self.setup, networks, self.tokenizer).write([text for text, _ in examples])
        if not chains:
            return {"no_chain": float(np.mean([not text for text in written.chains]))}
        pairs = zip(written.chains, examples, strict=True)
        return {"chains_right": float(np.mean([chain_is_right(text, scene, t) for text, (t, scene) in pairs]))}


def train_variants(setup: Setup, output: Path, amount: Amount) -> None:
    """Train what is not there yet, and write a pipeline folder for each variant.

    Args:
        setup: Its `start` is the pipeline that all start from, the embedded one unless given.
        output: Folder of the variants; what is needed to go on after a kill lies in ``training/``.
        amount: How much to train.

    Raises:
        UserError: If the folder was begun with other settings, or the pipeline has no scene tokens.
    """
    setup = dataclasses.replace(setup, folder=output / "training")
    tokens = load_tokens(setup.config, _start(setup))
    _claim(setup, amount)
    left = [variant for variant in VARIANTS if not (output / variant.name).exists()]
    timer = _Timer(setup, amount)
    timer.say(f"to make: {', '.join(variant.title for variant in left) or 'nothing, all are there'}")
    for variant in left:
        if not variant.pretrained and train_reading(variant, setup, amount, tokens):
            timer.say(f"{variant.title}: reasoner done", variant.reading)
        pipeline = train_joint(variant, setup, amount)
        timer.say(f"{variant.title}: end to end done", f"joint-{variant.name}")
        _export(variant, pipeline, setup, amount, output / variant.name)


def train_reading(variant: Variant, setup: Setup, amount: Amount, tokens: SceneTokens) -> bool:
    """A fresh language model learns chains, if it is to write any, and image tokens for the UNet.

    Returns:
        False if it had been done before.
    """
    plan = amount.plan(variant.reading)
    tokenizer, networks = _fresh(setup)
    fix_nulls(networks["projector"], tokens)
    tokens.to(setup.device)
    fit = Fit(plan, networks, setup.folder, setup.device)
    if fit.progress >= 1:
        return False
    lessons = VariantDataset(setup, tokenizer)

    def batches(number: int) -> list[tuple[TrainingBatch, torch.Tensor]]:
        made = lessons.pool(plan.batch, number)
        return [(lessons.encoded(one, chains=variant.chains), describe([scene for _, scene in one])) for one in made]

    stored = stream(batches, fit.step, _POOL, setup.workers)
    fit.run(
        lambda step: aligned(networks, tokens, *next(stored)),
        functools.partial(lessons.examine, networks, chains=variant.chains),
    )
    return True


def train_joint(variant: Variant, setup: Setup, amount: Amount) -> GoTPipeline:
    """The paper's loss on the variant's switches; returns it with averaged weights."""
    plan = amount.plan(f"joint-{variant.name}")
    pipeline = load(_start(setup))
    networks = {"mllm": pipeline.mllm, "projector": pipeline.projector}
    if not variant.pretrained:
        networks = averaged(setup.folder, variant.reading, _fresh(setup)[1])
    networks["unet"] = pipeline.unet
    for network in networks.values():
        network.requires_grad_(True).train()
    networks["mllm"].model.visual.requires_grad_(False)
    for layer in (networks["projector"].output_projector, networks["projector"].output_projector_add):
        layer.bias.requires_grad_(False)
    fit = Fit(plan, networks, setup.folder, setup.device)
    if fit.progress < 1:
        bank, lessons = setup.bank(), VariantDataset(setup, pipeline.tokenizer)
        drawing = Drawing.of(networks["unet"], bank, setup, pipeline.vae.to(setup.device).requires_grad_(False))

        def batches(step: int) -> list[tuple[np.ndarray, TrainingBatch]]:
            rows, examples = lessons.rows(bank.scenes, plan.batch, step)
            return [(rows, lessons.encoded(examples, chains=variant.chains))]

        stored = stream(batches, fit.step, 1, setup.workers)

        def loss_of(step: int) -> dict[str, torch.Tensor]:
            rng = stable_rng("variants noise", setup.seed, step)
            rows, sequences = next(stored)
            return end_to_end(networks, drawing, rows, sequences, rng, layout=variant.layout)

        fit.run(loss_of, functools.partial(lessons.examine, networks, chains=variant.chains))
    averaged(setup.folder, plan.stage, networks)
    return GoTPipeline(
        vae=pipeline.vae.cpu(),
        scheduler=pipeline.scheduler,
        tokenizer=pipeline.tokenizer,
        scale=pipeline.config.scale,
        chains=variant.chains,
        layout=variant.layout,
        **{name: network.cpu().eval() for name, network in networks.items()},
    )


def _fresh(setup: Setup) -> tuple[PreTrainedTokenizerBase, dict[str, Any]]:
    """The start's tokenizer, with an untrained language model and projector; the vision tower is unused and frozen."""
    start = load(_start(setup))
    with models.seeded(setup.seed):
        mllm, projector = models.build_mllm(setup.config, start.tokenizer), models.build_projector(setup.config)
    mllm.generation_config = start.mllm.generation_config  # the longest chain
    mllm.model.visual.requires_grad_(False)
    return start.tokenizer, {"mllm": mllm, "projector": projector}


class _Timer:
    """Says how long it will take: by this machine's pace in a few steps, then by that of the stage just done."""

    def __init__(self, setup: Setup, amount: Amount) -> None:
        self.setup, self.amount, self.begun = setup, amount, time.monotonic()
        self.pace = self._probe() if amount.seconds_left(setup.folder) else 1.0

    def say(self, what: str, stage: str | None = None) -> None:
        """One line on standard error; `stage` is what has just been done."""
        if stage is not None:
            done = _last(self.setup.folder, stage)
            self.pace = 60 * done["minutes"] / (done["step"] * _SECONDS[stage.partition("-")[0]])
        spent = (time.monotonic() - self.begun) / 60
        left = self.pace * self.amount.seconds_left(self.setup.folder) / 60
        sys.stderr.write(f"variants: {what}; {spent:.0f} min gone, about {left:.0f} to go\n")
        sys.stderr.flush()

    def _probe(self) -> float:
        """This machine's time for a step with chains, as a multiple of `_SECONDS`."""
        tokenizer, networks = _fresh(self.setup)
        networks["mllm"].to(self.setup.device), networks["projector"].to(self.setup.device)
        lessons, batch = VariantDataset(self.setup, tokenizer), self.amount.batch
        tokens = load_tokens(self.setup.config, _start(self.setup)).to(self.setup.device)
        times = [0.0]
        for examples in lessons.pool(batch, 0)[:4]:
            sequences, things = lessons.encoded(examples, chains=True), describe([scene for _, scene in examples])
            before = time.monotonic()
            aligned(networks, tokens, sequences, things)["loss"].backward()
            times.append(time.monotonic() - before)
        return float(np.mean(times[2:])) / _SECONDS["chains"]  # the first one warms up


def _last(folder: Path, stage: str) -> dict[str, Any]:
    """The last line of a stage's curve."""
    lines, _ = read_lines(folder / f"{stage}.jsonl")
    return lines[-1] if lines else {"step": 0, "minutes": 0.0}


def _start(setup: Setup) -> Path:
    return setup.start or MINI_PATH


def _claim(setup: Setup, amount: Amount) -> None:
    """Make the folder this training's, or find that it is."""
    weights = hashlib.sha256()
    for path in sorted(_start(setup).rglob("*.safetensors")):
        weights.update(path.read_bytes())
    wanted = {**dataclasses.asdict(amount), "scenes": setup.scenes, "seed": setup.seed, "start": weights.hexdigest()}
    path = setup.folder / _SETTINGS
    if not path.exists():
        write_json(path, wanted)
    there = read_object(path, UserError)
    differing = [f"{key} (there {there.get(key)}, now {now})" for key, now in wanted.items() if there.get(key) != now]
    if differing:
        raise UserError(f"{setup.folder.parent} was begun with other settings: {', '.join(differing)}")


def _export(variant: Variant, pipeline: GoTPipeline, setup: Setup, amount: Amount, target: Path) -> None:
    """The pipeline with its card, its curves and images of held-out captions, in one move."""
    with replacing_folder(target) as part:
        _write_variant(variant, pipeline, setup, amount, part)
    (setup.folder / f"joint-{variant.name}.pt").unlink()


def _write_variant(variant: Variant, pipeline: GoTPipeline, setup: Setup, amount: Amount, part: Path) -> None:
    save_fp16(pipeline, part)
    stages = [*([] if variant.pretrained else [variant.reading]), f"joint-{variant.name}"]
    for stage in stages:
        shutil.copy(setup.folder / f"{stage}.jsonl", part)
    prompts = [text for text, _ in VariantDataset(setup, pipeline.tokenizer).held_out()[:_SHOWN]]
    saved = load(part, setup.device)
    saved.set_progress_bar_config(disable=True)
    noise = [torch.Generator().manual_seed(setup.seed + i) for i in range(len(prompts))]
    images = np.stack([np.asarray(image) for image in saved(prompts, generator=noise).images])
    contact_sheet(images, columns=8).save(part / "samples.png")
    lines = [(amount.plan(stage), _last(setup.folder, stage)) for stage in stages]
    settings = read_object(setup.folder / _SETTINGS, UserError)
    (part / "README.md").write_text(
        card(variant.name, variant.title, lines, prompts, settings | {"device": setup.device})
    )


# ------------------------------------------------------------------------------------------------------- the model card
_WHAT = {
    "baseline": "It writes no chain: image tokens follow the prompt at once. Its UNet never gets a layout.",
    "got": "It writes a chain, and its image tokens follow that. Its UNet never gets the chain's boxes as a layout.",
    "ssgm": "It writes a chain, and its UNet gets the chain's boxes as a layout.",
    "full": "It writes a chain, and its UNet gets the chain's boxes as a layout. Its language model was pretrained: "
    "it is the start's, trained for far more steps than the others', on edits as well.",
}
_READING = """
The first stage starts from a language model that knows nothing. Its loss is the cross-entropy of what is written plus
the distance of the projected image tokens from the scene tokens that the UNet learned to draw from.
"""
_MEAN = """A prompt does not say where things are to be; without a chain, what is learned here is the mean of all scene
tokens that it may mean. Only the second stage shows it images.
"""
_CARD = """# GoT mini, variant "{title}"

A row of the GoT paper's ablation (arXiv 2503.10639, Table 3) at mini's size. {what}
`model_index.json` says so and every pipeline that is loaded from here keeps to it. Text-to-image only.
Licence: Apache-2.0.

## Data
Scenes of `got.iconworld` with caption and chain, seed {seed}. The last stage has {scenes:,} rendered ones. All variants
see the same scenes in the same order, drawn with the same noise.

## Recipe
`python -m got.train variants`, seed {seed}, torch {torch}, {products} products, AdamW. Autoencoder and UNet are the
start's and stand for SDXL; the autoencoder stays as it is. SHA-256 of the start's weights: `{start}`.

| stage | steps | batch | peak rate | minutes | at its end |
|---|---:|---:|---:|---:|---|
{stages}
{reading}
The last stage is the paper's loss, end to end: cross-entropy plus noise, with the same share of dropped conditions in
all variants. The `.jsonl` files have the curves.

## Images
Held-out captions, row by row:

![samples](samples.png)

{prompts}
"""
_CLOCK = ("step", "minutes")


def card(
    name: str,
    title: str,
    stages: Sequence[tuple[Plan, Mapping[str, float]]],
    prompts: Sequence[str],
    settings: Mapping[str, Any],
) -> str:
    """The card of a variant, as Markdown.

    Args:
        name: Of the variant's folder.
        title: Its row in the paper.
        stages: How each stage was run, and the last line of its curve.
        prompts: Of the images in ``samples.png``.
        settings: ``seed``, ``scenes``, ``start`` and ``device`` of the training.
    """
    rows = []
    for plan, last in stages:
        measured = ", ".join(f"{k.replace('_', ' ')} {v:.2f}" for k, v in last.items() if k not in _CLOCK)
        rows.append(
            f"| {plan.stage} | {last['step']:,} | {plan.batch} | {plan.lr:g} | {last['minutes']:.1f} | {measured} |"
        )
    reading = {"full": "", "baseline": _READING + _MEAN}.get(name, _READING)
    return _CARD.format(
        title=title,
        what=_WHAT[name],
        stages="\n".join(rows),
        reading=reading,
        prompts="\n".join(f"{number}. {prompt}" for number, prompt in enumerate(prompts, 1)),
        torch=torch.__version__,
        products="bfloat16" if has_native_dtype(torch.bfloat16, settings["device"]) else "float32",
        **{key: settings[key] for key in ("seed", "scenes", "start")},
    )
