"""The training loop: updates, checkpoints that survive a kill, logs, sample grids, and the finished pipeline.

Every loss is a mean over the whole update (all its tokens, all its images), whatever the number of processes and
passes: the same data gives the same gradient on one CPU and on a cluster.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import signal
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

import torch
from accelerate import DistributedType
from accelerate.tracking import get_available_trackers
from accelerate.utils.memory import clear_device_cache
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from PIL import Image
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from got.checkpoint import load
from got.data.records import TASKS
from got.data.storage import read
from got.finetune import folder as files
from got.finetune.feed import Collator, Feed, Mixture, Prepared, Unusable
from got.finetune.joint import Joint, Noiser, means, token_rows
from got.finetune.processes import accelerator_of, agree, seeded
from got.util.cli import on_signals
from got.util.files import append_lines, read_lines, replacing_folder, write_atomic, write_json
from got.util.hub import quiet
from got.util.images import PAPER, laid_out, png_bytes, written
from got.util.precision import warn_if_emulated

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from got.finetune.feed import Batch
    from got.finetune.recipes import Recipe, Run
    from got.pipeline import GoTPipeline

_MOST_FAULTS = 10  # so many updates in a row without a finite gradient end a training
_SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


class TrainingError(ValueError):
    """A training cannot go on; the message says why, in one line."""


class Trainer:
    """One process of a training."""

    def __init__(self, run: Run) -> None:
        self.run, recipe = run, run.recipe
        trackers = [str(tracker) for tracker in get_available_trackers()]
        if run.tracker is not None and run.tracker not in trackers:
            there = ", ".join(trackers) or "none"
            raise TrainingError(f"Expected a tracker that is installed ({there}) but got {run.tracker!r}")
        self.accelerator, self.share = accelerator_of(run)
        warn_if_emulated({"no": torch.float32, "bf16": torch.bfloat16}[recipe.precision], self.accelerator.device)
        self.mixture = Mixture(sources=run.sources, seed=run.seed)
        self.mixture.check()
        self.pipeline = _as_trained(load(run.model), run.recipe)
        self.collator = Collator.of(self.pipeline, recipe, run.seed)
        self.held_out = self._held_out() if run.look_every else []
        self.joint = Joint.of(self.pipeline, recipe)
        if recipe.precision == "bf16" and not self.sharded:  # shards must be of one dtype, and are small anyway
            self.joint.freeze_in(torch.bfloat16)
        self.noise = Noiser(self.pipeline, recipe, run.seed, self.accelerator.device)
        optimizer = torch.optim.AdamW(
            self.joint.trained().values(),
            lr=recipe.learning_rate,
            betas=(recipe.beta1, recipe.beta2),
            eps=recipe.epsilon,
            weight_decay=recipe.weight_decay,
        )
        # Not prepared: accelerate would move it once per process and update.
        self.schedule = get_scheduler(
            "cosine", optimizer, num_warmup_steps=recipe.warmup_steps, num_training_steps=recipe.steps
        )
        self.model, self.optimizer = self.accelerator.prepare(self.joint, optimizer)
        self.weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.ema = EMAModel(self.own, recipe.ema_decay, use_ema_warmup=True, power=0.75, foreach=True)
        self.ema.to(dtype=torch.float32)  # DeepSpeed's weights are short, and would swallow small changes
        self.step = self.faults = self.faults_in_a_row = self.skipped = 0
        # What has been measured since the last line of the log.
        self.sums, self.norms = torch.zeros(len(TASKS), 4, dtype=torch.float64), list[float]()
        self.asked_to_stop = self.stopping = False  # this process; all of them
        self.owes_look = False  # the last one was stopped
        self.logged_at = 0.0
        if self.accelerator.is_main_process:
            if recipe.steps <= recipe.warmup_steps:
                sys.stderr.write(
                    f"{recipe.steps} steps are no longer than the warm-up of {recipe.warmup_steps}: the learning rate "
                    "never reaches its peak\n"
                )
            files.claim(run.output, run.identity)
        self.accelerator.wait_for_everyone()
        if not agree(self.accelerator, files.progress(run.output)):
            raise TrainingError(f"Expected all machines to share {run.output} but they find different things there")
        self._resume()

    @property
    def sharded(self) -> bool:
        """Whether gradients and optimizer, or weights as well, are cut in pieces."""
        return self.accelerator.distributed_type in _SHARDED

    @property
    def split(self) -> bool:
        """Whether each process averages other weights: its shards. DeepSpeed's second stage leaves them whole."""
        return self.accelerator.distributed_type == DistributedType.FSDP

    @property
    def _average_name(self) -> str:
        return f"ema-{self.share.rank if self.split else 0}.pt"

    @property
    def own(self) -> list[torch.Tensor]:
        """The trained weights as plain tensors (of shards this process's): torch cannot add lists of sharded ones."""
        return [w.to_local().detach().requires_grad_() if isinstance(w, DTensor) else w for w in self.weights]

    # ------------------------------------------------------------------------------------------------------ training

    def train(self) -> dict[str, Any]:
        """Train to the end, or until a signal asks to stop; returns the headline numbers."""
        run, recipe = self.run, self.run.recipe
        batches = Feed(self.mixture, self.collator, self.share, self.step).loader(run.workers)
        if run.tracker is not None:
            self.accelerator.init_trackers("got")
        self.logged_at = time.monotonic()
        first = self.step + 1
        with on_signals(self.ask_to_stop, signal.SIGTERM, signal.SIGINT):
            if self.owes_look:
                self._look()
            while self.step < recipe.steps and not self.stopping:
                self._update(batches)
                if self.step == first and self.accelerator.is_main_process:
                    seconds = time.monotonic() - self.logged_at
                    sys.stderr.write(f"step {first} of {recipe.steps} done, after {seconds:.1f} s\n")
                done = self.step == recipe.steps
                if self.step % run.log_every == 0 or done:
                    self._log()
                if self.step % run.save_every == 0 or done or self.stopping:
                    self.save()
                if self._is_look() and not self.stopping:  # behind the save: a look may need more memory than there is
                    self._look()
        last = read_lines(run.output / files.LOG)[0][-1:] or [{}]
        counts = {"step": self.step, "finished": self.step == recipe.steps, "skipped": self.skipped}
        return last[0] | counts | {"faults": self.faults}

    def ask_to_stop(self) -> None:
        """End the training behind the next update, in all processes, with a checkpoint."""
        self.asked_to_stop = True

    def _update(self, batches: Iterator[Batch]) -> None:
        """One update; notes the gradient's norm and the losses, over all processes."""
        passes = [next(batches) for _ in range(self.share.passes)]
        for batch in passes:
            self._note_skipped(batch)
        own = [sum(int((b.sequences.labels[:, 1:] >= 0).sum()) for b in passes), sum(len(b.keys) for b in passes)]
        own += [sum(len(b.skipped) for b in passes), int(self.asked_to_stop)]
        tokens, images, skipped, stop = self._reduced(torch.tensor(own)).tolist()
        self.skipped, self.stopping = self.skipped + skipped, stop > 0
        measured = torch.zeros(len(TASKS), 4)
        for number, batch in enumerate(passes):
            key = ("dropout", self.run.seed, self.step, number, self.share.rank)
            with self.accelerator.accumulate(self.model), seeded(self.accelerator.device, *key):
                losses, errors, sums = self._losses(batch)
                loss = self.run.recipe.text_weight * losses.sum() / max(tokens, 1)
                loss = loss + self.run.recipe.noise_weight * errors.sum() / images
                # Undoes what follows: a mean over processes, and one over passes.
                self.accelerator.backward(loss * self.share.processes * self.share.passes)
            measured += sums
        norm = float(self.accelerator.clip_grad_norm_(self.weights, self.run.recipe.clip_norm or math.inf) or 0.0)
        measured = self._reduced(measured)
        self._guard(norm)
        if not math.isfinite(norm):
            self.optimizer.zero_grad()  # and so the next line changes nothing
        self.optimizer.step()
        if math.isfinite(norm):
            self.ema.step(self.own)
            self.sums, self.norms = self.sums + measured, [*self.norms, norm]
        self.schedule.step()
        self.optimizer.zero_grad()
        self.step += 1

    def _losses(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Losses per token and per image; and per task: their sums, each followed by its number, (tasks, 4)."""
        device = self.accelerator.device
        blank = None if batch.blank is None else (batch.blank[0].to(device), batch.blank[1].to(device))
        noised = self.noise(batch)
        # accelerate sees to it but for DeepSpeed, whose weights are short while norms and time embeddings are not.
        short = self.accelerator.distributed_type == DistributedType.DEEPSPEED and self.run.recipe.precision == "bf16"
        with torch.autocast(device.type, torch.bfloat16, enabled=short):
            output = self.model(batch.sequences.to(device), blank, batch.drawn.to(device), noised)
        errors = (output["predicted"].float() - noised.target).square().mean((1, 2, 3))
        of_tokens = batch.row_tasks[token_rows(batch.sequences)]
        of_images = batch.row_tasks[batch.sequences.image_rows[batch.drawn]]
        sums = torch.zeros(len(TASKS), 4)
        for column, tasks, values in ((0, of_tokens, output["token_losses"]), (2, of_images, errors)):
            sums[:, column].index_add_(0, tasks, values.detach().float().cpu())
            sums[:, column + 1] = torch.bincount(tasks, minlength=len(TASKS))
        return output["token_losses"], errors, sums

    def _reduced(self, values: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(values.to(self.accelerator.device), "sum").cpu()

    def _guard(self, norm: float) -> None:
        """Counts updates without a finite gradient, which are left out, and gives up after many in a row."""
        self.faults_in_a_row = 0 if math.isfinite(norm) else self.faults_in_a_row + 1
        self.faults += not math.isfinite(norm)
        if self.faults_in_a_row >= _MOST_FAULTS:
            raise TrainingError(
                f"The gradient has not been finite for {_MOST_FAULTS} updates, up to step {self.step}; none of them "
                f"changed a weight. Try a smaller learning rate, or look at what {self.run.output} says"
            )

    # ------------------------------------------------------------------------------------------------- log and looks

    def _log(self) -> None:
        """A line in the log, on standard error and in the tracker: what was measured since the last one."""
        norm = sum(self.norms) / max(1, len(self.norms))
        row = {"learning_rate": self.schedule.get_last_lr()[0], "gradient_norm": norm, "faults": self.faults}
        row = {"step": self.step, **means(self.sums), **row}
        if self.accelerator.is_main_process:
            append_lines(self.run.output / files.LOG, [row], durable=False, allow_nan=True)
        now = time.monotonic()
        row["examples_per_s"] = round(len(self.norms) * self.share.batch / (now - self.logged_at), 2)
        if self.accelerator.is_main_process:
            sys.stderr.write(json.dumps(row) + "\n")
        self.accelerator.log({name: value for name, value in row.items() if name != "step"}, step=self.step)
        self.sums, self.norms, self.logged_at = torch.zeros_like(self.sums), [], now

    def _note_skipped(self, batch: Batch) -> None:
        rows = ({"step": self.step + 1, "why": why} for why in batch.skipped)
        append_lines(self.run.output / files.SKIPPED, rows, durable=False)

    def _look(self) -> None:
        """Losses on the held-out examples and a grid of drawings, with the averaged weights."""
        examples = self.held_out
        sums = torch.zeros(len(TASKS), 4)
        with self._averaged(), torch.no_grad():
            self.model.eval()
            for start in range(0, len(examples), self.share.micro):
                sums += self._losses(self.collator.batch(examples[start : start + self.share.micro]))[2]
            row = {"step": self.step, **{f"held_out/{name}": value for name, value in means(sums).items()}}
            drawing = self._gathered() if self.sharded else self.pipeline
            if drawing is not None and self.accelerator.is_main_process:
                append_lines(self.run.output / files.HELD_OUT, [row], durable=False, allow_nan=True)
                target = self.run.output / "grids" / f"{self.step:08d}.png"
                with self.accelerator.autocast():
                    draw_grid(drawing.to(self.accelerator.device), examples, self.run.seed, target)
            del drawing
            clear_device_cache()
            self.accelerator.log({name: value for name, value in row.items() if name != "step"}, step=self.step)
            self.model.train()
        self.accelerator.wait_for_everyone()

    def _is_look(self) -> bool:
        every = self.run.look_every
        return every > 0 and self.step > 0 and (self.step % every == 0 or self.step == self.run.recipe.steps)

    def _held_out(self) -> list[Prepared]:
        place = self.run.held_out or self.run.sources[0].place
        found: list[Prepared] = []
        for number, example in enumerate(read(place)):
            if len(found) == self.run.samples:
                break
            with contextlib.suppress(Unusable):
                found.append(self.collator.prepare(-1 - number, example))
        if not found:
            raise TrainingError(f"Expected examples to look at in {place} but none of them can be used")
        return found

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """For a while, puts the averaged weights in the place of the trained ones."""
        self.ema.store(self.own)
        self.ema.copy_to(self.own)
        try:
            yield
        finally:
            self.ema.restore(self.own)
            if isinstance(self.model, FSDPModule):
                self.model.reshard()  # without gradients it keeps what it gathered, and would go on with the average

    # --------------------------------------------------------------------------------------------------- checkpoints

    def save(self) -> None:
        """Write a checkpoint, whole or not at all, and drop the oldest."""
        main, unfinished = self.accelerator.is_main_process, self.run.output / files.UNFINISHED
        if main:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        if self.sharded:
            self.accelerator.save_state(str(unfinished / "state"))
            if self.split or main:
                torch.save(self.ema.state_dict(), unfinished / self._average_name)
        elif main:
            state = {
                "weights": {name: weight.detach() for name, weight in self.joint.trained().items()},
                "optimizer": self.optimizer.state_dict(),
                "ema": self.ema.state_dict(),
            }
            torch.save(state, unfinished / "state.pt")
        self.accelerator.wait_for_everyone()
        if main:
            counts = {
                "step": self.step,
                "faults": self.faults,
                "skipped": self.skipped,
                "sums": self.sums.tolist(),
                "norms": self.norms,
                "sharded": self.sharded,
                "processes": self.share.processes,
            }
            files.finish(self.run.output, counts, self.schedule.state_dict(), self.run.keep)
            files.write_table(self.run.output)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        """Go on from the last checkpoint, if there is one."""
        folder = files.latest(self.run.output)
        if folder is None:
            if self.accelerator.is_main_process:
                files.cut_logs(self.run.output, 0)
            self.accelerator.wait_for_everyone()
            return
        counts, schedule = files.counts(folder)
        if counts.pop("sharded") != self.sharded:
            how = "without" if self.sharded else "with"
            raise TrainingError(f"{folder} was saved {how} shards (FSDP, DeepSpeed) and can only be resumed so")
        if self.sharded:
            if counts["processes"] != self.share.processes:
                raise TrainingError(
                    f"{folder} was saved in shards by {counts['processes']} processes and can only be resumed by as "
                    f"many, but there are {self.share.processes}; --export writes a model that any number goes on from"
                )
            self.accelerator.load_state(str(folder / "state"))
            self.accelerator.step = 0  # counts passes: with another --micro, updates would end at the wrong ones
            ema = torch.load(folder / self._average_name, weights_only=True)
        else:
            state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
            self.joint.load_trained(state["weights"])
            self.optimizer.load_state_dict(state["optimizer"])
            ema = state["ema"]
        self.ema.load_state_dict(ema)
        self.ema.to(self.accelerator.device)
        self.schedule.load_state_dict(schedule)
        self.step, self.faults, self.skipped = counts["step"], counts["faults"], counts["skipped"]
        self.sums, self.norms = torch.tensor(counts["sums"], dtype=torch.float64), counts["norms"]
        looks = [row["step"] for row in read_lines(self.run.output / files.HELD_OUT)[0]]
        self.owes_look = self._is_look() and self.step not in looks
        if self.accelerator.is_main_process:
            files.cut_logs(self.run.output, self.step)
        self.accelerator.wait_for_everyone()

    def export(self) -> Path:
        """Write the averaged weights as a pipeline that `got.checkpoint.load` reads, LoRA merged.

        Raises:
            TrainingError: If nothing has been trained.
        """
        if not self.step:
            raise TrainingError(f"Expected a checkpoint in {self.run.output} but there is none")
        with self._averaged():
            pipeline = self._gathered()
        if pipeline is not None:
            with quiet(), replacing_folder(self.run.output / files.MODEL) as target:
                pipeline.save_pretrained(target)
                write_json(target / files.TRAINING, {"step": self.step, "recipe": self.run.identity["recipe"]})
        self.accelerator.wait_for_everyone()
        return self.run.output / files.MODEL

    def _gathered(self) -> GoTPipeline | None:
        """The weights that all processes hold now as a pipeline in main memory, LoRA merged; in the main process."""
        state = self.accelerator.get_state_dict(self.model)
        if not self.accelerator.is_main_process:
            return None
        pipeline = _as_trained(load(self.run.model), self.run.recipe)
        joint = Joint.of(pipeline, self.run.recipe)
        joint.load_trained({name: state[name] for name in joint.trained()})
        pipeline.mllm = joint.merged()
        joint.eval().requires_grad_(False)
        return pipeline

    def close(self) -> None:
        """Finish trackers, and leave the other processes."""
        self.accelerator.end_training()


def _as_trained(pipeline: GoTPipeline, recipe: Recipe) -> GoTPipeline:
    """A pipeline that draws as the recipe trains it: without chains or layouts where that has none."""
    pipeline.register_to_config(chains=recipe.chains, layout=recipe.layout)
    return pipeline


# ------------------------------------------------------------------------------------------------------------ the sheet
_CELL_PX, _TEXT_PX, _GAP_PX = 192, 32, 6
_TITLES = ("source", "target", "from the true chain", "from its own chain")


def draw_grid(pipeline: GoTPipeline, examples: Sequence[Prepared], seed: int, path: Path) -> None:
    """Draw the first step of each example with the pipeline's defaults, and save a sheet: a row per example."""
    pipeline.set_progress_bar_config(disable=True)
    rows = []
    for one in examples:
        edit = one.example.source is not None
        source = one.images[0] if edit else None
        drawn = [
            pipeline(
                one.example.prompt,
                image=source,
                chain=chain,
                generator=torch.Generator().manual_seed(seed + one.sample),
                max_turns=1,
            ).images[0]
            for chain in (one.example.chains[0], None)
        ]
        rows.append((one.example.prompt, [source, one.images[int(edit)], *drawn]))
    write_atomic(path, png_bytes(sheet(rows)))


def sheet(rows: Sequence[tuple[str, Sequence[Image.Image | None]]]) -> Image.Image:
    """Images in columns under their titles, each row with its words above it; None leaves a gap."""
    width = len(_TITLES) * (_CELL_PX + _GAP_PX) + _GAP_PX
    titles = [(_GAP_PX + n * (_CELL_PX + _GAP_PX), 4, title, "gray", 10) for n, title in enumerate(_TITLES)]
    strips = []
    for words, images in rows:
        lines = textwrap.wrap(words, width // 7, max_lines=2, placeholder=" ...")
        head = written((width, _TEXT_PX), [(_GAP_PX, 6, "\n".join(lines), "black", 10)])
        cells = [p and p.resize((_CELL_PX, _CELL_PX), Image.Resampling.NEAREST) for p in images]
        strips.append(laid_out(cells, len(_TITLES), gap_px=_GAP_PX, head=head, missing=PAPER))
    return laid_out(strips, 1, head=written((width, 20), titles))
