"""Training of the embedded weights.

One command per stage, in this order (see got/mini/README.md):

    python -m got.train vae       --folder runs/mini    # the autoencoder of the icon world
    python -m got.train unet      --folder runs/mini    # the UNet on true scene tokens: stands for SDXL's pretraining
    python -m got.train edits     --folder runs/mini    # the UNet goes on with edits, still on true tokens
    python -m got.train vision    --folder runs/mini    # the reasoner's eyes: what is where in an image
    python -m got.train grounding --folder runs/mini    # the reasoner says what it sees: with the last, for Qwen's own
    python -m got.train reasoner  --folder runs/mini    # chains and image tokens: stands for Qwen's, and aligns both
    python -m got.train joint     --folder runs/mini    # the paper's loss, end to end
    python -m got.train decoder   --folder runs/mini    # sharper images of the same latents
    python -m got.train export    --folder runs/mini --output got/mini

    python -m got.train unpack    --folder runs/more --start got/mini    # a new folder to go on in, from any stage

    python -m got.train variants  --folder runs/variants    # the rows of the paper's Table 3, all of them

A stage is stopped by Ctrl-C at any time and resumes with the same command. It lasts `--minutes` of its own running
time, and the learning rate follows that clock; variants are compared, so theirs are counted in steps. Curves are in
`FOLDER/STAGE.jsonl`.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

from got.model.config import CONFIGS
from got.util.cli import Parser, number, run_command, whole
from got.util.hub import MINI_PATH, locate

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from got.model.config import GoTConfig
    from got.train.trainer import Plan
    from got.train.vae import Setup

STAGES = ("vae", "unet", "edits", "vision", "grounding", "reasoner", "joint", "decoder")
"""Stages that have a plan, in the order in which they are trained."""


def main(arguments: Sequence[str] | None = None, config: GoTConfig = CONFIGS["mini"]) -> int:
    """Entry point; a user's mistake ends in one line and exit status 2.

    Args:
        arguments: Of the command line; those of the process unless given.
        config: Sizes of the networks and the images.
    """
    return run_command(lambda: _run(arguments, config), interrupted="interrupted; the same command resumes")


def _runs() -> dict[str, tuple[Plan, Callable[[Plan, Setup], None]]]:
    """How each stage is run, and by what."""
    from got.train import decoder, edits, grounding, reasoner, unet, vae, vision
    from got.train.trainer import Plan

    return {
        "vae": (
            Plan(stage="vae", minutes=27, batch=16, lr=2e-3, ema_decay=0.999, gates={"psnr_foreground": 25.0}),
            vae.train_vae,
        ),
        "unet": (
            Plan(stage="unet", minutes=45, batch=64, lr=2e-3, ema_decay=0.9995, gates={"class": 0.8, "color": 0.8}),
            unet.train_unet,
        ),
        "edits": (
            Plan(
                stage="edits",
                minutes=35,
                batch=64,
                lr=1e-3,
                ema_decay=0.999,
                gates={"new_class": 0.8, "new_color": 0.8},
            ),
            edits.train_edits,
        ),
        "vision": (
            Plan(stage="vision", minutes=15, batch=64, lr=2e-3, ema_decay=0.999, gates={"held_out_right_class": 0.9}),
            vision.train_vision,
        ),
        "grounding": (
            Plan(
                stage="grounding",
                minutes=25,
                batch=64,
                lr=2e-3,
                ema_decay=0.998,
                gates={"told_class": 0.85, "told_box": 0.7},
            ),
            grounding.train_grounding,
        ),
        "reasoner": (
            Plan(stage="reasoner", minutes=40, batch=16, lr=2e-3, ema_decay=0.998, gates={"chains_right": 0.9}),
            reasoner.train_reasoner,
        ),
        "joint": (
            Plan(
                stage="joint", minutes=6, batch=32, lr=1e-4, ema_decay=0.995, gates={"class": 0.8, "chains_right": 0.85}
            ),
            reasoner.train_joint,
        ),
        "decoder": (
            Plan(
                stage="decoder",
                minutes=40,
                batch=16,
                lr=1e-4,
                lr_factors={"critic": decoder.CRITIC_LR},
                ema_decay=0.998,
                weight_decay=0.0,
                warmup_steps=50,
                betas=(0.5, 0.99),
                gates={"psnr_foreground": 23.0, "class": 0.85},
            ),
            decoder.train_decoder,
        ),
    }


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m got.train", description=__doc__)
    parser.add_argument("stage", choices=[*STAGES, "export", "unpack", "variants"])
    parser.add_argument(
        "--folder", type=Path, help="checkpoints and curves (default: runs/mini; of variants, runs/variants)"
    )
    parser.add_argument("--minutes", type=number(0), help="length of the stage (default: a full training on two cores)")
    parser.add_argument("--batch", type=whole(), help="scenes per step")
    parser.add_argument("--lr", type=number(0), help="peak of the learning rate")
    parser.add_argument(
        "--scenes", type=whole(), help="size of the bank of rendered scenes (default: 24576; variants, 8192)"
    )
    parser.add_argument(
        "--steps", type=whole(), help="variants: of each fresh reasoner (default: as the published ones)"
    )
    parser.add_argument(
        "--joint-steps", type=whole(0), help="variants: end to end, each (default: as the published ones)"
    )
    parser.add_argument("--seed", type=whole(0), default=1)
    parser.add_argument("--threads", type=whole(), default=os.cpu_count() or 1)
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")
    parser.add_argument(
        "--workers", type=whole(0), default=0, help="processes that write captions and chains ahead (default: none)"
    )
    parser.add_argument(
        "--start",
        metavar="mini|DIR|HUB_ID",
        help="vae: a saved pipeline whose latents to learn; vision, grounding, reasoner: one to go on from (default:"
        " from nothing); unpack, variants:"
        " what is unpacked, what all start from (default: the embedded one)",
    )
    parser.add_argument(
        "--fixed-tokens", action="store_true", help="edits: scene tokens stay, so a reasoner can be trained beside it"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("got/mini"), help="export: where to (default: %(default)s, embedded)"
    )
    parser.add_argument(
        "--mean-with",
        metavar="mini|DIR|HUB_ID",
        help="export: an earlier pipeline; what is exported is half this training, half it",
    )
    return parser


def _run(arguments: Sequence[str] | None, config: GoTConfig) -> None:
    parser = _parser()
    options = parser.parse_args(arguments)
    import torch  # after the arguments have been checked: heavy

    from got.train import export, vae
    from got.train import variants as stages_variants
    from got.util.precision import reuse_memory

    torch.set_num_threads(options.threads)
    reuse_memory()
    if options.mean_with and options.stage != "export":
        parser.error("--mean-with has an effect on export alone")
    variants = options.stage == "variants"
    setup = vae.Setup(
        config=config,
        folder=options.folder or Path("runs/variants" if variants else "runs/mini"),
        scenes=options.scenes or (8_192 if variants else 24_576),
        seed=options.seed,
        device=options.device or ("cuda" if torch.cuda.is_available() else "cpu"),
        workers=options.workers,
        start=None if options.start is None else locate(options.start),
        fixed_tokens=options.fixed_tokens,
    )
    if options.stage == "export":
        export.export(setup, options.output, None if options.mean_with is None else locate(options.mean_with))
        return
    if options.stage == "unpack":
        export.unpack(setup, setup.start or MINI_PATH)
        return
    changes = {
        k: v for k, v in (("minutes", options.minutes), ("batch", options.batch), ("lr", options.lr)) if v is not None
    }
    if variants:
        if changes:
            parser.error(f"--{next(iter(changes))} has no effect on variants; --steps and --joint-steps have")
        given = {"steps": options.steps, "joint_steps": options.joint_steps}
        amount = stages_variants.Amount(**{name: value for name, value in given.items() if value is not None})
        stages_variants.train_variants(setup, setup.folder, amount)
        return
    plan, stage = _runs()[options.stage]
    stage(dataclasses.replace(plan, **changes), setup)


if __name__ == "__main__":
    raise SystemExit(main())
