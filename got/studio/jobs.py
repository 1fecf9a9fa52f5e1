"""What a page may ask the drawing thread for. Each job sends events on its way and saves every image at once."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from got.cli.parser import MOST_TURNS
from got.model.outputs import to_pil
from got.model.validation import check_words
from got.plan.chain import Chain
from got.plan.layout import draw_overview
from got.studio import views
from got.util.errors import UserError

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
_STRIP: dict[str, dict[str, bool]] = {
    "all three": {},
    **{f"without {name}": {name: False} for name in _GUIDANCES},
    "none": dict.fromkeys(_GUIDANCES, False),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Studio:
    """What all requests share."""

    sessions: Sessions
    arguments: argparse.Namespace
    """Of the command."""
    observer: Observer | None = None
    run: Run | None = None
    """Whose samples can be opened."""
    first: tuple[str, str] | None = None
    """What a page begins with: ``("session", name)`` or ``("sample", key)``."""

    @property
    def pipeline(self) -> GoTPipeline:
        """What draws."""
        return self.sessions.pipeline

    def session(self, name: str) -> dict[str, Any]:
        """A session as a page shows it."""
        return views.session(name, self.sessions.get(name), self.sessions.folder(name), self.arguments)

    def work(self, job: Job, name: str, asked: dict[str, Any]) -> None:
        """Does what a page asks for.

        Raises:
            ValueError: If the request cannot be done.
            UserError: Likewise.
        """
        looks = {"plan": self._plan, "explain": self._explain, "observe": self._observe}
        kind, asked = asked.get("kind"), {"entry": None, **asked}
        if kind not in ("draw", "edit", "revise", *looks):
            raise UserError(f"expected one of draw, edit, revise, {', '.join(looks)} but got {kind!r:.100}")
        stop = self.pipeline.mllm.register_forward_pre_hook(lambda *_: job.check())  # also between words of a plan
        try:
            if kind in looks:
                looks[kind](job, self.sessions.get(name), asked)
            else:
                self._change(job, name, asked)
        finally:
            stop.remove()

    def _change(self, job: Job, name: str, asked: dict[str, Any]) -> None:
        with self.sessions.drawing(name) as talk, talk.telling(**self._callbacks(job)):
            seeds = _seeds(asked, talk.seed)
            for i, seed in enumerate(seeds):
                job.say("image", number=i, of=len(seeds))
                before = len(talk.entries)
                self._make(talk, asked, seed)
                self.sessions.save(name, talk)
                made = talk.entries[before:]
                job.say("session", session=self.session(name), made=[entry.number for entry in made])
                for entry in made:
                    self._observe(job, talk, {"entry": entry.number})

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

    def _plan(self, job: Job, talk: Conversation, asked: dict[str, Any]) -> None:
        image = None if asked["entry"] is None else talk.at(asked["entry"]).image
        chain: Any = self.pipeline.think(_words(asked), image)
        job.say("chain", plan=views.plan(chain))

    def _observe(self, job: Job, talk: Conversation, asked: dict[str, Any]) -> None:
        entry = talk.at(asked["entry"])
        if self.observer is not None and entry.kind != "opened":
            said = self.observer.observe(entry.image, entry.instruction, entry.chain, entry.seed or 0)
            job.say("seen", entry=entry.number, **said)

    def _explain(self, job: Job, talk: Conversation, asked: dict[str, Any]) -> None:
        """Draws an entry again with guidances off, and shows what the UNet is given. Nothing of it is kept."""
        entry = talk.at(asked["entry"])
        if entry.kind == "opened":
            raise UserError("this image was opened, not drawn: there is no guidance to look at")
        width, height = (entry.options.get(name) for name in ("width", "height"))
        source = None if entry.source is None else talk.at(entry.source).image
        spatial, reference = self.pipeline.show_conditions(entry.plan, source, width, height)
        layout = draw_overview(entry.plan, *spatial.size)
        shown = {"layout": layout, "layout, as seen": spatial, "reference, as seen": reference}
        for title, image in shown.items():
            job.say("condition", title=title, url=views.data_url(image))
        with talk.telling(callback_on_step_end=lambda *_: job.check()):
            for title, off in _STRIP.items():
                job.say("variant", title=title, url=views.data_url(talk.redraw(entry.number, **off)))

    def _callbacks(self, job: Job) -> dict[str, Any]:
        """The pipeline's, through which a page sees the plan and the denoising, and stops it."""

        def on_chains(chains: list[Chain]) -> None:
            job.say("chain", plan=views.plan(chains[0]))

        def on_step(pipeline: GoTPipeline, step: int, _: int, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
            job.check()
            count = pipeline.num_timesteps
            shown = {}
            # The autoencoder's place in an offloaded model is not beside the UNet.
            if self.arguments.offload is None and (step + 1) % max(1, count // _PREVIEWS) == 0 and step + 1 < count:
                shown = {"url": views.data_url(to_pil(pipeline.decode(tensors["latents"][:1]))[0])}
            job.say("step", step=step + 1, of=count, **shown)
            return {}

        return {"callback_on_chains": on_chains, "callback_on_step_end": on_step}


def _words(asked: dict[str, Any]) -> str:
    check_words(asked.get("prompt"), "prompt")
    return str(asked["prompt"]).strip()


def _seeds(asked: dict[str, Any], usual: int) -> list[int]:
    """As texts, because JavaScript has no such numbers."""
    seeds = asked.get("seeds") or [str(usual)]
    known = isinstance(seeds, list) and all(isinstance(seed, str) and seed.isdecimal() for seed in seeds)
    if not known or len(seeds) > MOST_IMAGES or any(int(seed) >= 2**63 for seed in seeds):
        raise UserError(f"expected at most {MOST_IMAGES} seeds from 0 to 2^63 - 1 but got {seeds!r:.100}")
    return list(map(int, seeds))


def read_plan(plan: Any) -> Chain:
    """A chain as the page holds it: ``{"text": ..., "names": [...]}``; its boxes may be plain.

    Raises:
        UserError: If it is none.
    """
    names = plan.get("names", []) if isinstance(plan, dict) else None
    if names is None or not isinstance(plan.get("text"), str) or not all(isinstance(name, str) for name in names):
        raise UserError("expected a plan with its text and the names of its regions")
    return Chain.read(plan["text"]).named(names)


def _options(asked: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the pipeline, as far as the page gives them."""
    given = {name: value for name, value in (asked.get("options") or {}).items() if value not in (None, "")}
    for name, value in given.items():
        if name not in _SETTINGS or (name in _GUIDANCES and not isinstance(value, bool)):
            raise UserError(f"there is no setting {name[:40]} of {value!r:.100}")
        if name in _MOST and isinstance(value, int) and value > _MOST[name]:
            raise UserError(f"expected {name} to be at most {_MOST[name]} but got {value!r}")
    return given
