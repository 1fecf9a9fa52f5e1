"""What a page may ask the drawing thread for. Each job sends events on its way and saves every image at once."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from got.cli import reproduce
from got.cli.parser import MOST_TURNS
from got.model.outputs import to_pil
from got.model.validation import check_words
from got.plan.chain import Chain
from got.plan.layout import draw_overview
from got.studio import views
from got.util.errors import UserError, one_line

if TYPE_CHECKING:
    import argparse

    import torch

    from got.conversation import Conversation
    from got.pipeline import GoTPipeline
    from got.studio.observers import Observer, Run
    from got.studio.sessions import Sessions
    from got.studio.worker import Job

MOST_IMAGES = 8
_MOST = {"num_inference_steps": 1000, "width": 4096, "height": 4096, "max_new_tokens": 4096}
"""What a slip of a page must not exceed; all else about settings the pipeline says."""
_GUIDANCES = ("semantic", "spatial", "reference")
_SETTINGS = (*_MOST, *_GUIDANCES, *(f"{name}_scale" for name in _GUIDANCES), "scheduler")
_PREVIEWS = 5
_STRIP = {"all three": (), **{f"without {name}": (name,) for name in _GUIDANCES}, "none": _GUIDANCES}
"""Images that show what each guidance does, and what is off in them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Studio:
    """What all requests share."""

    sessions: Sessions
    arguments: argparse.Namespace
    """Of the command."""
    observer: Observer | None = None
    run: Run | None = None
    """Whose samples can be opened."""

    def session(self, name: str) -> dict[str, Any]:
        """A session as a page shows it: every image, how it came about, and how to draw it again."""
        talk, folder = self.sessions.get(name), self.sessions.folder(name)
        drawn_by = (talk.entries, folder, self.arguments)
        entries = [
            entry.record()
            | {"seed": None if entry.seed is None else str(entry.seed)}  # JavaScript has no such numbers
            | {"plan": views.plan(entry.plan)}
            | {"command": reproduce.command(entry, *drawn_by), "python": reproduce.python(entry, *drawn_by)}
            for entry in talk.entries
        ]
        told = {"name": name, "entries": entries, "current": None if talk.entry is None else talk.entry.number}
        return told | {"undo": talk.can_undo, "redo": talk.can_redo, "chat": reproduce.resume(folder, self.arguments)}

    def work(self, job: Job) -> None:
        """Does what a page asks for; raises `ValueError` or `UserError` if it cannot be done."""
        kinds = dict.fromkeys(("draw", "edit", "revise"), self._change)
        kinds |= {"plan": self._plan, "explain": self._explain, "observe": self._observe}
        kind, asked = job.asked.get("kind"), {"entry": None, **job.asked}
        if kind not in kinds:
            raise UserError(f"expected one of {', '.join(kinds)} but got {kind!r:.100}")
        hook = self.sessions.pipeline.mllm.register_forward_pre_hook(lambda *_: job.check())
        with hook:  # which stops it between the words of a plan, too
            kinds[kind](job, asked)

    def _change(self, job: Job, asked: dict[str, Any]) -> None:
        seeds = _seeds(asked, self.sessions.get(job.session).seed)
        for i, seed in enumerate(seeds):
            job.say("image", number=i, of=len(seeds))
            with self.sessions.changing(job.session) as talk, talk.telling(**self._callbacks(job)):
                before = len(talk.entries)
                self._make(talk, asked, seed)
                made = [entry.number for entry in talk.entries[before:]]
            job.say("session", session=self.session(job.session), made=made)
            for number in made:
                self._observe(job, {"entry": number})

    def _make(self, talk: Conversation, asked: dict[str, Any], seed: int) -> None:
        chain = None if asked.get("chain") is None else read_plan(asked["chain"])
        if asked["kind"] != "draw":
            talk.go_to(asked["entry"])
        if asked["kind"] == "revise":
            talk.revise(chain or "")
        elif asked["kind"] == "edit":
            once = chain is not None or self.arguments.reference_compat
            turns: dict[str, Any] = {} if once else {"max_turns": MOST_TURNS}
            talk.say(_words(asked), chain=chain, seed=seed, **turns, **_options(asked))
        else:
            # A plan that was made by hand is its own prompt.
            words = chain.caption() if chain and chain.regions and not asked.get("prompt") else _words(asked)
            talk.draw(words, chain=chain, seed=seed, **_options(asked))

    def _plan(self, job: Job, asked: dict[str, Any]) -> None:
        image = None if asked["entry"] is None else self.sessions.get(job.session).at(asked["entry"]).image
        chain: Any = self.sessions.pipeline.think(_words(asked), image)
        job.say("chain", plan=views.plan(chain))

    def _observe(self, job: Job, asked: dict[str, Any]) -> None:
        entry = self.sessions.get(job.session).at(asked["entry"])
        if self.observer is not None and entry.kind != "opened":
            said = self.observer.observe(entry.image, entry.instruction, entry.chain, entry.seed or 0)
            job.say("seen", entry=entry.number, edited=entry.source is not None, **said)

    def _explain(self, job: Job, asked: dict[str, Any]) -> None:
        """Draws an entry again with guidances off, and shows what the UNet is given. Nothing of it is kept."""
        talk = self.sessions.get(job.session)
        entry = talk.at(asked["entry"])
        width, height = (entry.options.get(name) for name in ("width", "height"))
        source = None if entry.source is None else talk.at(entry.source).image
        spatial, reference = self.sessions.pipeline.show_conditions(entry.plan, source, width, height)
        layout = draw_overview(entry.plan, *spatial.size)
        shown = {"layout": layout, "layout, as seen": spatial, "reference, as seen": reference}
        for title, image in shown.items():
            job.say("condition", title=title, url=views.data_url(image))
        with talk.telling(callback_on_step_end=lambda *_: job.check()):
            for title, off in _STRIP.items():
                image = talk.redraw(entry.number, **dict.fromkeys(off, False))
                job.say("variant", title=title, url=views.data_url(image))

    def _callbacks(self, job: Job) -> dict[str, Any]:
        """The pipeline's, through which a page sees the plan and the denoising, and stops it."""

        def on_step(pipeline: GoTPipeline, step: int, _: int, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
            job.check()
            done, count, preview = step + 1, pipeline.num_timesteps, None
            # The autoencoder's place in an offloaded model is not beside the UNet.
            if self.arguments.offload is None and done % max(1, count // _PREVIEWS) == 0 and done < count:
                preview = views.data_url(to_pil(pipeline.decode(tensors["latents"][:1]))[0])
            job.say("step", step=done, of=count, url=preview)
            return {}

        said = {"callback_on_chains": lambda chains: job.say("chain", plan=views.plan(chains[0]))}
        return said | {"callback_on_step_end": on_step}


def _words(asked: dict[str, Any]) -> str:
    check_words(asked.get("prompt"), "prompt")
    return str(asked["prompt"]).strip()


def _seeds(asked: dict[str, Any], usual: int) -> range:
    """Counted up from one that is a text, because JavaScript has no such numbers."""
    seed, count = asked.get("seed") or str(usual), asked.get("images", 1)
    if count not in range(1, MOST_IMAGES + 1):
        raise UserError(f"Expected 1 to {MOST_IMAGES} images but got {count!r:.99}")
    if not (isinstance(seed, str) and seed.isdecimal()) or int(seed) + count > 2**63:
        raise UserError(f"Expected a seed that is a whole number from 0 up, and all below 2^63, but got {seed!s:.99}")
    return range(int(seed), int(seed) + count)


def _options(asked: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the pipeline, as far as the page gives them."""
    given: dict[str, Any] = asked.get("options") or {}
    for name, value in given.items():
        if name not in _SETTINGS or (name in _GUIDANCES and not isinstance(value, bool)):
            raise UserError(f"there is no setting {name[:40]} of {value!r:.100}")
        if name in _MOST and isinstance(value, int) and value > _MOST[name]:
            raise UserError(f"Expected {name} to be at most {_MOST[name]} but got {value!r}")
    return given


def read_plan(plan: Any) -> Chain:
    """A chain as the page holds it: ``{"text": ..., "names": [...]}``, its boxes perhaps plain; else `UserError`."""
    match plan:
        case {"text": str(text), "names": [*names]} if all(isinstance(name, str) for name in names):
            return Chain.read(text).named(names)
    raise UserError("expected a plan with its text and the names of its regions")


def changed_plan(plan: Any, change: Any) -> Chain:
    """A plan read, and changed if a change is asked for: ``[how, ...]``, by the methods of `Chain`."""
    chain = read_plan(plan)
    match change:
        case None:
            return chain
        case ["replace" | "move" | "add" | "remove" as how, *what]:
            try:
                changed: Chain = getattr(chain, how)(*what)
            except (TypeError, AttributeError) as error:
                raise UserError(f"this change cannot be read: {one_line(error)}") from error
            return changed
    raise UserError(f"expected replace, move, add or remove, and what, but got {change!r:.100}")
