"""What a page may ask the drawing thread for. Each job sends events on its way and saves every image at once."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from got.cli.parser import MOST_TURNS
from got.conversation import with_names
from got.model.outputs import scale_latents, to_pil
from got.model.schedulers import SCHEDULERS
from got.model.ssgm import Switches, image_conditions
from got.plan.layout import draw_overview
from got.studio import views
from got.util.errors import UserError

if TYPE_CHECKING:
    import argparse

    from got.conversation import Conversation, Entry
    from got.pipeline import GoTPipeline
    from got.plan.chain import Chain
    from got.studio.observers import Observer
    from got.studio.sessions import Sessions
    from got.studio.worker import Job

MOST_IMAGES, MOST_STEPS, MOST_PX = 8, 1000, 4096
_PREVIEWS = 5
_LOOKS = ("explain", "observe")
"""Requests that change nothing: the session can be changed meanwhile."""
_NUMBERS = ("semantic_scale", "spatial_scale", "reference_scale")
_WHOLE = {"num_inference_steps": MOST_STEPS, "width": MOST_PX, "height": MOST_PX, "max_new_tokens": 4096}
_STRIP: dict[str, dict[str, bool]] = {
    "all three": {},
    "without semantic": {"semantic": False},
    "without spatial": {"spatial": False},
    "without reference": {"reference": False},
    "none": {"semantic": False, "spatial": False, "reference": False},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Studio:
    """What all requests share."""

    pipeline: GoTPipeline
    sessions: Sessions
    observer: Observer | None
    arguments: argparse.Namespace

    def work(self, job: Job, name: str, asked: dict[str, Any]) -> None:
        """Does what a page asks for: draw, edit, revise, plan, explain or observe.

        Raises:
            ValueError: If the request cannot be done.
            UserError: Likewise.
        """
        kinds = {
            "draw": self._draw, "edit": self._edit, "revise": self._revise, "plan": self._plan,
            "explain": self._explain, "observe": self._observe,
        }  # fmt: skip
        if asked.get("kind") not in kinds:
            raise UserError(f"expected one of {', '.join(kinds)} but got {asked.get('kind')!r}")
        if asked["kind"] in _LOOKS:
            kinds[asked["kind"]](job, name, self.sessions.get(name), asked)
            return
        with self.sessions.drawing(name) as talk:
            talk.callbacks = self._callbacks(job)
            kinds[asked["kind"]](job, name, talk, asked)

    def _draw(self, job: Job, name: str, talk: Conversation, asked: dict[str, Any]) -> None:
        seeds = asked.get("seeds") or [talk.seed]
        if not isinstance(seeds, list) or len(seeds) > MOST_IMAGES:
            raise UserError(f"expected a list of at most {MOST_IMAGES} seeds but got {seeds!r}")
        for i, seed in enumerate(map(_seed, seeds)):
            job.say("image", number=i, of=len(seeds))
            chain = None if asked.get("chain") is None else _chain(asked)
            before = len(talk.entries)
            talk.draw(_words(asked), chain=chain, seed=seed, **_options(asked))
            self._keep(job, name, talk, before)

    def _edit(self, job: Job, name: str, talk: Conversation, asked: dict[str, Any]) -> None:
        talk.go_to(_number(asked))
        turns: dict[str, Any] = {} if self.arguments.reference_compat else {"max_turns": MOST_TURNS}
        seed, before = asked.get("seeds") or [talk.seed], len(talk.entries)
        talk.say(_words(asked), seed=_seed(seed[0]), **turns, **_options(asked))
        self._keep(job, name, talk, before)

    def _revise(self, job: Job, name: str, talk: Conversation, asked: dict[str, Any]) -> None:
        talk.go_to(_number(asked))
        before = len(talk.entries)
        talk.revise(_chain(asked))
        self._keep(job, name, talk, before)

    def _plan(self, job: Job, name: str, talk: Conversation, asked: dict[str, Any]) -> None:
        image = None if asked.get("entry") is None else talk.entries[_number(asked)].image
        chain: Any = self.pipeline.think(_words(asked), image)
        job.say("chain", plan=views.plan(chain))

    def _observe(self, job: Job, name: str, talk: Conversation, asked: dict[str, Any]) -> None:
        self._say_what_is_seen(job, talk.entries[_number(asked)])

    def _explain(self, job: Job, name: str, talk: Conversation, asked: dict[str, Any]) -> None:
        """Draws an entry again with guidances off, and shows what the UNet is given. Nothing of it is kept."""
        entry = talk.entries[_number(asked)]
        if entry.kind == "opened":
            raise UserError("this image was opened, not drawn: there is no guidance to look at")
        source = None if entry.source is None else talk.entries[entry.source].image
        used = {key: value for key, value in entry.options.items() if key not in ("max_turns", "scheduler")}
        for title, image in self._conditions(entry.plan, source, used):
            job.say("condition", title=title, url=views.data_url(image))
        scratch = type(talk)(self.pipeline)
        scratch.callbacks = {"callback_on_step_end": lambda *_: job.check()}
        if source is not None:
            scratch.open(source)
        for title, off in _STRIP.items():
            switches = {**entry.options, "max_turns": 1, **off}
            ask: Any = scratch.draw
            if source is not None:
                scratch.go_to(0)
                ask = scratch.say
            made = ask(entry.instruction, chain=entry.plan, seed=entry.seed, **switches)
            job.say("variant", title=title, url=views.data_url(made.image))

    def _conditions(self, chain: Chain, source: Any, used: dict[str, Any]) -> list[tuple[str, Any]]:
        """The layout, and both images that the UNet sees, as the autoencoder gives them back from its latents."""
        pipeline, size_px = self.pipeline, self.pipeline.size_px(used.get("width"), used.get("height"))
        with torch.inference_mode():
            latents = image_conditions(
                pipeline.vae, [chain], None if source is None else [source], size_px,
                Switches(semantic=True, spatial=True, reference=True), device=pipeline._execution_device,
            )  # fmt: skip
            seen = [to_pil(pipeline.decode(scale_latents(pipeline.vae, one)))[0] for one in latents]
        return [
            ("layout", draw_overview(chain, *size_px)),
            ("layout, as seen", seen[0]),
            ("reference, as seen", seen[1]),
        ]

    def _keep(self, job: Job, name: str, talk: Conversation, before: int) -> None:
        self.sessions.save(name, talk)
        made = talk.entries[before:]
        job.say("session", session=views.session(name, talk, self.sessions.folder(name), self.arguments),
                made=[entry.number for entry in made])  # fmt: skip
        for entry in made:
            self._say_what_is_seen(job, entry)

    def _say_what_is_seen(self, job: Job, entry: Entry) -> None:
        if self.observer is not None and entry.kind != "opened":
            said = self.observer.observe(entry.image, entry.instruction, entry.chain, entry.seed or 0)
            job.say("seen", entry=entry.number, **said)

    def _callbacks(self, job: Job) -> dict[str, Any]:
        """The pipeline's, through which a page sees the plan and the denoising, and stops it."""
        steps = 0

        def on_chains(chains: list[Chain]) -> None:
            nonlocal steps
            job.check()
            steps = 0
            job.say("chain", plan=views.plan(chains[0]))

        def on_step(pipeline: GoTPipeline, step: int, _: int, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
            job.check()
            count = len(pipeline.scheduler.timesteps)
            # The autoencoder's place in an offloaded model is not beside the UNet.
            if self.arguments.offload is None and (step + 1) % max(1, count // _PREVIEWS) == 0 and step + 1 < count:
                image = to_pil(pipeline.decode(tensors["latents"][:1]))[0]
                job.say("preview", step=step + 1, of=count, url=views.data_url(image))
            else:
                job.say("step", step=step + 1, of=count)
            return {}

        return {"callback_on_chains": on_chains, "callback_on_step_end": on_step}


def _words(asked: dict[str, Any]) -> str:
    words = asked.get("prompt")
    if not isinstance(words, str) or not words.strip():
        raise UserError("expected a prompt in words, such as: a photo of a red apple and a blue dog")
    return words.strip()


def _number(asked: dict[str, Any]) -> int:
    if not isinstance(asked.get("entry"), int):
        raise UserError(f"expected the number of an image but got {asked.get('entry')!r}")
    return int(asked["entry"])


def _seed(text: Any) -> int:
    if not str(text).isdecimal() or int(text) >= 2**63:
        raise UserError(f"expected a seed from 0 to 2^63 - 1 but got {str(text)[:40]!r}")
    return int(text)


def _chain(asked: dict[str, Any]) -> Chain:
    return read_plan(asked.get("chain"))


def read_plan(plan: Any) -> Chain:
    """A chain as the page holds it: ``{"text": ..., "names": [...]}``.

    Raises:
        UserError: If it is none.
    """
    names = plan.get("names", []) if isinstance(plan, dict) else None
    if names is None or not isinstance(plan.get("text"), str) or not all(isinstance(name, str) for name in names):
        raise UserError("expected a plan with its text and the names of its regions")
    return with_names(plan["text"], names)


def _options(asked: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the pipeline, as far as the page gives them."""
    given = {name: value for name, value in (asked.get("options") or {}).items() if value not in (None, "")}
    for name, value in given.items():
        if name in _WHOLE:
            if not isinstance(value, int) or not 1 <= value <= _WHOLE[name]:
                raise UserError(f"expected {name} to be a whole number from 1 to {_WHOLE[name]} but got {value!r}")
        elif name in _NUMBERS:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UserError(f"expected {name} to be a number but got {value!r}")
        elif name == "scheduler":
            if value not in SCHEDULERS:
                raise UserError(f"expected a sampler of {', '.join(SCHEDULERS)} but got {value!r}")
        elif name not in ("semantic", "spatial", "reference") or not isinstance(value, bool):
            raise UserError(f"there is no setting {name[:40]} of {value!r}")
    return given
