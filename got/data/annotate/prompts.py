"""What annotation asks a model: a prompt file for each stage, and a failure with the stage's name."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from got.util.errors import shortened
from got.vlm.asker import Question
from got.vlm.clients import AskFailed, Reply
from got.vlm.json_replies import BadReply, read_json
from got.vlm.messages import USER, Message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import jinja2

    from got.vlm.asker import Asker
    from got.vlm.messages import ImageFile

PROMPTS = Path(__file__).parents[1] / "prompts"
STAGES = ("describe", "extract", "ground", "reground", "parse", "crop", "compose", "instruction")
"""What is asked, each with a prompt file of its name."""
_Read = TypeVar("_Read")


class StageFailed(Exception):
    """A sample cannot be annotated; says at which stage and why."""

    def __init__(self, stage: str, cause: str, detail: str) -> None:
        super().__init__(f"{stage}: {cause}: {detail}")
        self.stage, self.cause, self.detail = stage, cause, detail


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PROMPTS),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["json"] = functools.partial(json.dumps, ensure_ascii=False)
    return environment


def prompt(stage: str, **variables: Any) -> str:
    r"""The question of a stage.

    Texts go in as JSON strings (``{{ name | json }}`` in the file), which they cannot break out of.

    >>> print(prompt("crop", name='a "hot" dog').splitlines()[1])
    "a \"hot\" dog"
    """
    return _environment().get_template(f"{stage}.txt").render(**variables).strip()


def prompts_hash() -> str:
    """Twelve digits that change with any prompt file."""
    digest = hashlib.sha256()
    for stage in STAGES:
        digest.update((PROMPTS / f"{stage}.txt").read_bytes() + b"\0")
    return digest.hexdigest()[:12]


async def ask(
    asker: Asker, sample: str, stage: str, words: str, images: Sequence[ImageFile], read: Callable[[Any], _Read]
) -> _Read:
    """What a model's reply says, once it can be read.

    Args:
        asker: Who is asked.
        sample: Id of what the question is about.
        stage: One of `STAGES`.
        words: The prompt.
        images: Image files.
        read: Makes the result of the reply's JSON, or raises `BadReply`.

    Raises:
        StageFailed: If all attempts failed.
        SetupError: If the model cannot be asked at all.
    """

    def whole(reply: Reply) -> _Read:
        return read(read_json(reply.text))

    detail = {"stage": stage, "prompt": words}
    # Images first: a server that keeps the work on a common beginning of requests then sees each image once.
    question = Question(subject=(sample,), detail=detail, messages=(Message(role=USER, parts=(*images, words)),))
    try:
        return await asker.ask(question, whole)
    except (AskFailed, BadReply) as error:
        raise StageFailed(stage, error.cause, shortened(str(error))) from error
