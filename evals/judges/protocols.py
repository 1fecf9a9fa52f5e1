"""What a judge is asked: the questions of a protocol, with their prompts, and what the scores make together.

Two protocols, which never share a column:

- ``got`` (GoT, arXiv 2503.10639, Figure 12): one question with both images, two scores, the lower one over 10.
- ``viescore`` (arXiv 2312.14867): the same with its own wording (SC), then a second question about the result alone
  (PQ); the final score is ``sqrt(min(SC) * min(PQ)) / 10``.

The prompts are ours, not the papers' sentences; the user may supply the paper's own file in place of GoT's.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from evals.core.records import UserError
from evals.judges.calls import Call, Shown, prompt_hash
from evals.judges.replies import parse_scores
from evals.metrics.judging import geometric, minimum

if TYPE_CHECKING:
    from collections.abc import Callable

PROMPTS = Path(__file__).parent / "prompts"
PLACE = "{instruction}"
"""The placeholder of the instruction in a prompt file."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EditCall:
    """One question of a protocol for edits, whose two scores come as a list."""

    name: str
    prompt: str
    """Text with `PLACE` in it, unless it asks about the image alone."""
    images: tuple[str, ...]
    """``"source"`` and ``"result"``, in the order sent."""
    scores: tuple[str, str]
    """Names of the two scores asked for."""
    quoted: bool = True
    """Whether the instruction goes in as a JSON string, which it cannot break out of."""

    def about(self, instruction: str) -> Call:
        """The question about one edit."""
        return Call(
            name=self.name,
            text=render(self, instruction),
            images=tuple(Shown(role=role) for role in self.images),
            read=lambda text: dict(zip(self.scores, parse_scores(text), strict=True)),
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JudgeProtocol:
    """Questions, and what their scores make together."""

    name: str
    calls: tuple[EditCall, ...]
    combine: Callable[[dict[str, float]], float]
    """All single scores, 0 to 10 -> the final one, 0 to 1."""

    @property
    def prompt_hash(self) -> str:
        """Eight digits that change with any prompt."""
        return prompt_hash(call.prompt for call in self.calls)


def make_protocol(name: str, verbatim: Path | None = None) -> JudgeProtocol:
    """A protocol by name.

    Args:
        name: `got` or `viescore`.
        verbatim: The user's own file with the prompt of GoT's Figure 12; ``{instruction}`` stands for the instruction,
            which is then put in as it is.

    Raises:
        UserError: No such protocol, or the file does not fit.
    """
    both, pair = ("source", "result"), ("success", "restraint")
    if name == "got":
        text, quoted = (_shipped("got.txt"), True) if verbatim is None else (_own(verbatim), False)
        call = EditCall(name="edit", prompt=text, images=both, scores=pair, quoted=quoted)
        title = "got" if verbatim is None else "got-verbatim"
        return JudgeProtocol(name=title, calls=(call,), combine=lambda s: minimum([s[part] for part in pair]))
    if name == "viescore" and verbatim is None:
        looks = ("naturalness", "cleanness")
        calls = (
            EditCall(name="consistency", prompt=_shipped("viescore_consistency.txt"), images=both, scores=pair),
            EditCall(name="quality", prompt=_shipped("viescore_quality.txt"), images=("result",), scores=looks),
        )
        return JudgeProtocol(
            name="viescore",
            calls=calls,
            combine=lambda s: geometric([s[part] for part in pair], [s[part] for part in looks]),
        )
    if name == "viescore":
        raise UserError("--judge-prompt goes with --judge-protocol got only")
    raise UserError(f"Expected a judge protocol got or viescore but got {name!r}")


def _shipped(name: str) -> str:
    return (PROMPTS / name).read_text(encoding="utf-8")


def _own(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--judge-prompt {path}: cannot be read ({error})") from error
    if text.count(PLACE) != 1:
        raise UserError(f"--judge-prompt {path}: expected {PLACE} once but got it {text.count(PLACE)} times")
    return text


def render(call: EditCall, instruction: str) -> str:
    """The text of a question.

    >>> call = EditCall(name="x", prompt="Do: {instruction} {", images=(), scores=("a", "b"))
    >>> render(call, 'say "hi"') == 'Do: ' + json.dumps('say "hi"') + ' {'
    True
    """
    return call.prompt.replace(PLACE, json.dumps(instruction, ensure_ascii=False) if call.quoted else instruction)
