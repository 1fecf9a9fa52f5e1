r"""Train GoT on chain datasets, from any pipeline: mini on a laptop, GoT-6B on a cluster.

    python -m got.finetune --recipe mini --model mini --data icons --output runs/mini
    python -m got.finetune --join Qwen2.5-VL-3B-Instruct stable-diffusion-xl-base-1.0 --output start
    accelerate launch --config_file docs/training/fsdp.yaml -m got.finetune --recipe got-6b-pretrain --model start \
        --data lahr:3.77 journeydb:4.09 omniedit:0.737 --output runs/pretrain --micro 1
    python -m got.finetune --recipe got-6b-pretrain --memory

The same command resumes after Ctrl-C, SIGTERM or a crash, from the last checkpoint, exactly as it would have. The
output gets `checkpoint-*`, `log.jsonl` and `log.csv`, `held_out.jsonl`, `skipped.jsonl`, `grids/`, and at the end
`model/`, a pipeline for `--checkpoint`. The last line on standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from got.finetune.recipes import RECIPES, Run, changed
from got.util.cli import Parser, run_command, whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from got.finetune.recipes import Recipe


def build_parser() -> argparse.ArgumentParser:
    """Flags of what is trained, of this machine, and of what is kept and shown."""
    parser = Parser(prog="python -m got.finetune", description=__doc__)
    add = parser.add_argument
    add("--recipe", choices=RECIPES, default="mini", help="what is trained and how (default: %(default)s)")
    add("--set", nargs="+", default=[], metavar="NAME=VALUE", help="change the recipe, e.g. steps=500 batch=8")
    add("--model", default="mini", metavar="mini|DIR|HUB_ID", help="pipeline to start from (default: mini)")
    add("--data", nargs="+", default=[], metavar="PLACE[:WEIGHT]", help="chain datasets, drawn from by weight")
    add("--output", type=Path, metavar="DIR", help="the folder of this training; the same one resumes")
    add("--seed", type=whole(0), default=0, help="of order, noise and dropout (default: %(default)s)")
    group = parser.add_argument_group("on this machine (free to change when resuming)")
    add = group.add_argument
    add("--micro", type=whole(), metavar="N", help="examples per process and pass (default: as many as an update has)")
    add("--device", choices=("cpu",), help="keep a GPU out of it; otherwise accelerate takes what there is")
    add("--workers", type=whole(0), default=0, help="processes that open images ahead, for each training process")
    group = parser.add_argument_group("what is kept and shown")
    add = group.add_argument
    add("--log-every", type=whole(), default=10, metavar="STEPS", help="(default: %(default)s)")
    add("--save-every", type=whole(), default=500, metavar="STEPS", help="checkpoints (default: %(default)s)")
    add("--keep", type=whole(), default=2, metavar="N", help="the last so many checkpoints stay (default: %(default)s)")
    add("--look-every", type=whole(0), default=500, metavar="STEPS",
        help="losses and a grid of drawings of held-out examples; 0 for never (default: %(default)s)")  # fmt: skip
    add("--held-out", metavar="PLACE", help="dataset of these examples (default: the first ones trained on)")
    add("--samples", type=whole(), default=8, metavar="N", help="how many of them (default: %(default)s)")
    add("--track", metavar="TRACKER", help="also log to tensorboard, or another tracker that accelerate knows")
    add("--export", action="store_true", help="do not train; write model/ from the last checkpoint")
    add("--memory", action="store_true", help="do not train; print what the recipe needs at full size")
    add("--join", nargs=2, metavar=("QWEN", "SDXL"),
        help="do not train; put Qwen2.5-VL and SDXL together in --output, to start from")  # fmt: skip
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; a user's mistake ends in one line and exit status 2."""

    def run() -> dict[str, object] | None:
        options = build_parser().parse_args(arguments)
        recipe = changed(RECIPES[options.recipe], options.set)
        return _memory(recipe) if options.memory else _join(options) if options.join else _train(recipe, options)

    return run_command(run, interrupted="interrupted; the same command resumes")


def _memory(recipe: Recipe) -> dict[str, object]:
    from got.finetune import budget

    print(budget.report(recipe), file=sys.stderr)
    return budget.summary(recipe)


def _join(options: argparse.Namespace) -> dict[str, object]:
    if options.output is None:
        raise ValueError("Expected --output")
    from got.finetune.joint import start

    qwen, sdxl = options.join
    return {"model": str(start(qwen, sdxl, options.output))}


def _train(recipe: Recipe, options: argparse.Namespace) -> dict[str, object] | None:
    if not options.data or options.output is None:
        raise ValueError("Expected --data and --output")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # workers are forked
    from got.finetune import folder
    from got.finetune.recipes import Source
    from got.finetune.run import Trainer

    trainer = Trainer(
        Run(
            recipe=recipe,
            model=options.model,
            sources=tuple(Source.parse(text) for text in options.data),
            output=options.output,
            seed=options.seed,
            micro=options.micro,
            device=options.device,
            workers=options.workers,
            log_every=options.log_every,
            save_every=options.save_every,
            keep=options.keep,
            look_every=options.look_every,
            held_out=options.held_out,
            samples=options.samples,
            tracker=options.track,
        )
    )
    result: dict[str, object] = {"step": trainer.step} if options.export else trainer.train()
    if options.export or (result["finished"] and folder.exported(options.output) != trainer.step):
        trainer.export()
    if folder.exported(options.output) == trainer.step:
        result["model"] = str(options.output / folder.MODEL)
    main_process = trainer.accelerator.is_main_process
    trainer.close()
    return result if main_process else None


if __name__ == "__main__":
    raise SystemExit(main())
