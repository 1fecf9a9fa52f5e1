"""Judges by name, and their flags. A factory is called with its argument, `JudgeOptions` and the suite's tools.

An endpoint is named by the environment alone: ``JUDGE_MODEL``, ``OPENAI_BASE_URL`` and ``OPENAI_API_KEY``. The key is
never written anywhere; of the address only a hash.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from evals.core.backends import ICON_WORLD, Backend, Registry, local_place
from evals.core.options import OBSERVE, RUN, VERDICT, option
from evals.core.records import UserError
from evals.judges.calls import Sending
from evals.judges.protocols import make_protocol
from evals.metrics.judging import MAX_FAILED
from got.util.cli import json_fields, number, whole
from got.util.hub import missing_model, unreachable
from got.util.weight_files import fault_in, why
from got.vlm.messages import MAX_PIXELS, Encoding

if TYPE_CHECKING:
    from collections.abc import Callable

    from evals.core.backends import Judge, Tools
    from evals.judges.interviewer import Interviewer
    from evals.judges.vlm_judge import VlmJudge
    from got.vlm.asker import AskSettings
    from got.vlm.clients import Backend as Answerer

_CONFIG = "config.json"


def _model_fault(argument: str) -> str | None:
    """Why there is no model of transformers under a name; whether the hub has one, only loading it tells."""
    place, what = Path(argument), missing_model(argument)
    if what is None and place.exists():
        no_config = None if (place / _CONFIG).is_file() else UserError(f"expected a folder with {_CONFIG}")
        what = fault_in(place) if no_config is None else why(place, no_config)
    return f"--judge hf:{argument} cannot be loaded: {what}" if what else None


JUDGES = Registry["Judge"](
    "a judge",
    "got_evals.judges",
    {
        "measured": Backend(factory="evals.judges.detection_scores:make_measured", world=ICON_WORLD),
        "openai": Backend(
            factory="evals.judges.registry:_openai", argument="[MODEL]", place="evals.judges.registry:_endpoint"
        ),
        "hf": Backend(
            factory="evals.judges.registry:_transformers",
            argument="PATH|ID",
            place="got.vlm.local:model_name",
            weights=local_place,
            fault=_model_fault,
        ),
    },
)


def _temperature(text: str) -> float | None:
    return None if text == "none" else number(0)(text)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AskOptions:
    """The flags of all suites that ask a judge."""

    judge: str = option(
        "none", lambda: f"{JUDGES.written()} (default: %(default)s)", stage=OBSERVE, metavar="NAME", names="judge"
    )
    judge_log: Path = option(
        Path("runs") / "judge_replies.jsonl",
        "all replies of judges; the same is never asked twice (default: %(default)s)",
        stage=RUN,
        metavar="FILE",
        parse=Path,
    )
    judge_repeats: int = option(
        1, "ask each thing N times (default: %(default)s)", stage=OBSERVE, metavar="N", parse=whole()
    )
    judge_concurrency: int = option(
        4, "requests at a time (default: %(default)s)", stage=RUN, metavar="N", parse=whole()
    )
    judge_rpm: float | None = option(
        None,
        "requests in a minute at most (default: what the server takes)",
        stage=RUN,
        metavar="N",
        parse=number(0.01),
    )
    judge_timeout: float = option(
        120.0, "seconds for one reply (default: %(default)s)", stage=RUN, metavar="S", parse=number(0.1)
    )
    judge_max_tokens: int | None = option(
        None,
        "longest reply, the thoughts of a reasoning model included (default: the protocol's; 1400 for got, viescore)",
        stage=OBSERVE,
        metavar="N",
        parse=whole(),
        silent=True,
    )
    judge_extra: str | None = option(
        None,
        """more fields of the endpoint's request, as '{"reasoning_effort": "low"}'""",
        stage=OBSERVE,
        metavar="JSON",
        parse=json_fields,
        silent=True,
    )
    judge_max_pixels: int | None = option(
        None,
        f"larger images are scaled down before they are sent; 0: never (default: the protocol's; {MAX_PIXELS} for got, "
        "viescore); part of the judge's name",
        stage=OBSERVE,
        metavar="N",
        parse=whole(0),
        silent=True,
    )
    judge_jpeg: int | None = option(
        None,
        "send JPEG of this quality instead of PNG; part of the judge's name",
        stage=OBSERVE,
        metavar="1-95",
        parse=whole(1, 95),
        silent=True,
    )
    judge_price: tuple[float, float] | None = option(
        None, "USD for a million tokens in and out", stage=RUN, metavar=("IN", "OUT"), parse=number(0), nargs=2
    )
    max_spend: float | None = option(
        None,
        "no request that could lead above this, with what --judge-log holds of the judge; needs --judge-price",
        stage=RUN,
        metavar="USD",
        parse=number(0),
    )
    judge_max_failed: float = option(
        MAX_FAILED,
        "share of images without a judgement above which there is no headline; 1: always one (default: %(default)s)",
        stage=VERDICT,
        metavar="X",
        parse=number(0, 1),
    )
    judge_prompts: str | None = option(None, "", stage=OBSERVE)
    """Hash of the prompts of a judge that is asked; not a flag, see `resolve`."""
    judge_place: str | None = option(None, "", stage=OBSERVE)
    """A name of who answers, without secrets; not a flag, see `resolve`."""

    @property
    def prompt_hash(self) -> str:
        """Hash of the prompts that the options name; empty where a suite has its own."""
        return ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeOptions(AskOptions):
    """The flags of suites of edits, whose judge has one of two protocols."""

    judge_protocol: str = option(
        "got", "what it is asked (default: %(default)s)", stage=OBSERVE, choices=("got", "viescore")
    )
    judge_prompt: Path | None = option(
        None,
        "the paper's own prompt instead of ours, for protocol got",
        stage=OBSERVE,
        metavar="FILE",
        parse=Path,
        names="file",
    )
    judge_temperature: float | None = option(
        0.0,
        "none leaves it to the endpoint (default: %(default)s)",
        stage=OBSERVE,
        metavar="X|none",
        parse=_temperature,
    )
    judge_json: bool = option(False, "ask for JSON by the endpoint's own means", stage=OBSERVE)

    @property
    def prompt_hash(self) -> str:
        """Of the protocol's wording."""
        return make_protocol(self.judge_protocol, self.judge_prompt).prompt_hash


Options = TypeVar("Options", bound=AskOptions)


def resolve(options: Options, world: str, prompts: Callable[[], str] | None = None) -> Options:
    """The options, checked, with what the judge depends on beside them.

    That is the endpoint's model, a hash of its address or the name of a local model with its weights' hash, and the
    prompts' hash: a run whose identity holds them belongs to one judge, also when the environment or a file changes.

    Args:
        options: As given.
        world: What the run's images show.
        prompts: Gives the hash of the prompts, for a judge that is asked; None where the options themselves tell.

    Raises:
        UserError: No such judge, or not with these options.
    """
    judge = options.judge
    if judge == "none":
        settings("none", options)
        return dataclasses.replace(options, judge_prompts=None, judge_place=None)
    record, argument = _find(judge, asked=options.judge_place is None)
    kind = judge.partition(":")[0]
    if kind == "openai" and not argument:
        argument = _model_from_environment()
        judge = f"openai:{argument}"
    if record.world == ICON_WORLD != world:
        raise UserError(f"--judge {kind} is for the icon world: no --data, and a detector of icons")
    settings(kind, options)
    if record.place is None:
        return dataclasses.replace(options, judge=judge, judge_prompts=None, judge_place=None)
    digest = options.prompt_hash if prompts is None else prompts()
    place = options.judge_place or record.named(argument)  # that of a run which is only scored again is known
    return dataclasses.replace(options, judge=judge, judge_prompts=digest, judge_place=place)


def concurrent_requests(options: AskOptions) -> int:
    """How many questions an endpoint is asked at a time; 0 where none is asked."""
    return options.judge_concurrency if options.judge.partition(":")[0] == "openai" else 0


def _find(spec: str, *, asked: bool = True) -> tuple[Backend[Judge], str]:
    """The record and the argument; of a judge that is not asked anew, the model may be gone by now."""
    return JUDGES.find(spec, choices=f"none, {JUDGES.written()}", used=asked)


def settings(kind: str, options: AskOptions) -> AskSettings:
    """How a judge is asked.

    Raises:
        UserError: The options do not go together.
    """
    from got.vlm.asker import AskSettings
    from got.vlm.clients import AskParams

    if options.max_spend is not None and options.judge_price is None:
        raise UserError("--max-spend needs --judge-price")
    if kind == "hf" and options.judge_repeats > 1:
        raise UserError("--judge-repeats: a local judge is greedy and says the same every time")
    params = AskParams(extra=json.loads(options.judge_extra or "{}"))
    if isinstance(options, JudgeOptions):  # elsewhere the protocol lays these down
        params = dataclasses.replace(params, temperature=options.judge_temperature, json_mode=options.judge_json)
    return AskSettings(
        params=params,
        concurrency=options.judge_concurrency,
        per_minute=options.judge_rpm,
        length_flag="--judge-max-tokens",
        usd_per_million=options.judge_price,
        max_usd=options.max_spend,
    )


def sent_as(options: AskOptions, sending: Sending) -> Sending:
    """How a protocol sends its questions, with what the flags change."""
    encoding = sending.encoding
    if options.judge_max_pixels is not None:
        encoding = dataclasses.replace(encoding, max_pixels=options.judge_max_pixels or None)
    if options.judge_jpeg is not None:
        encoding = dataclasses.replace(encoding, format="JPEG", quality=options.judge_jpeg)
    tokens = options.judge_max_tokens or sending.max_tokens
    extra = {**sending.extra, **json.loads(options.judge_extra or "{}")}
    return dataclasses.replace(sending, max_tokens=tokens, encoding=encoding, extra=extra)


def make_judge(options: JudgeOptions, tools: Tools) -> Judge | None:
    """The judge that the options name; None for ``none``.

    Raises:
        UserError: No such judge, or it cannot be had with these options.
    """
    if options.judge == "none":
        return None
    record, argument = _find(options.judge)
    settings(options.judge.partition(":")[0], options)  # a mistake in the flags goes before one in the set-up
    return record.build(argument, options, tools)


def make_interviewer(options: AskOptions, tools: Tools, protocol: str, sending: Sending) -> Interviewer:
    """Who is asked the questions of a benchmark.

    Args:
        options: The flags.
        tools: Say where a local model runs.
        protocol: Name and hash of the wording, as ``wise-verified-ours#0123abcd``.
        sending: What the protocol lays down of requests.

    Raises:
        UserError: No judge is given, or it cannot be asked such questions.
    """
    from evals.judges.interviewer import Interviewer

    check_answerer(options)
    kind, _, argument = options.judge.partition(":")
    answerer = _answerer(kind, argument, options, tools)
    how = sent_as(options, sending)
    return Interviewer(protocol, answerer, settings(kind, options), options.judge_log, sending=how)


_ANSWERERS = ("openai", "hf")
"""Kinds of judges that can be asked any question, not only about edits."""


def answerers() -> str:
    """How they are written on a command line."""
    return JUDGES.written(only=_ANSWERERS)


def check_answerer(options: AskOptions) -> None:
    """Raises `UserError` where the judge is none, or cannot be asked any question."""
    if options.judge.partition(":")[0] not in _ANSWERERS:
        raise UserError(f"this benchmark needs --judge, one of {answerers()}; it is {options.judge}")


def _answerer(kind: str, argument: str, options: AskOptions, tools: Tools) -> Answerer:
    from got.vlm.clients import SetupError
    from got.vlm.endpoint import OpenAIBackend
    from got.vlm.local import TransformersBackend

    try:
        if kind == "openai":
            model = argument or _model_from_environment()
            return OpenAIBackend.from_environment(model, timeout_seconds=options.judge_timeout)
        if tools.model is None and (fault := unreachable(argument)):
            raise SetupError(f"{argument} cannot be loaded: {fault}")
        return (tools.model or TransformersBackend)(argument, tools.device)
    except SetupError as error:
        raise UserError(f"--judge {kind}: {error}") from error


def _openai(argument: str, options: JudgeOptions, tools: Tools) -> VlmJudge:
    return _asked("openai", argument, options, tools)


def _transformers(argument: str, options: JudgeOptions, tools: Tools) -> VlmJudge:
    return _asked("hf", argument, options, tools)


def _asked(kind: str, argument: str, options: JudgeOptions, tools: Tools) -> VlmJudge:
    from evals.judges.vlm_judge import VlmJudge

    protocol = make_protocol(options.judge_protocol, options.judge_prompt)
    usual = Sending(temperature=options.judge_temperature, encoding=Encoding(max_pixels=MAX_PIXELS))
    sending, answerer = sent_as(options, usual), _answerer(kind, argument, options, tools)
    return VlmJudge(protocol, answerer, settings(kind, options), options.judge_log, sending=sending)


def _model_from_environment() -> str:
    model = os.environ.get("JUDGE_MODEL", "")
    if not model:
        raise UserError("--judge openai: set JUDGE_MODEL to the model's name")
    return model


def _endpoint(_: str) -> str:
    from got.vlm.endpoint import endpoint_hash

    return endpoint_hash(None)
