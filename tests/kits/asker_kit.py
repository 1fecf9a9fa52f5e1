"""Questions put to a real HTTP server that plays an endpoint, by the real client."""

import asyncio

from judge_kit import KEY, Waits, says

from got.util.hashes import OWN_HASH
from got.vlm.asker import Asker, AskSettings, Question
from got.vlm.clients import AskFailed
from got.vlm.endpoint import OpenAIBackend
from got.vlm.json_replies import BadReply, read_json
from got.vlm.messages import user

GOOD = says('{"ok": 1}')


def asker_at(endpoint, log=None, sleep=None, timeout=20.0, **settings):
    backend = OpenAIBackend("m", endpoint.url, KEY, timeout_seconds=timeout)
    return Asker(backend, AskSettings(**settings), log, subject=("id",), identity=("m",), sleep=sleep or Waits())


def put(asker, *questions, read=lambda reply: read_json(reply.text)):
    """What came of each question: the result, or the failure's cause."""
    found = {}

    async def work(numbered):
        number, question = numbered
        try:
            found[number] = await asker.ask(question, read)
        except (AskFailed, BadReply) as error:
            found[number] = error.cause

    asyncio.run(asker.each(enumerate(questions), work))
    return [found[number] for number in range(len(questions))]


def about(words, subject=None, **more):
    return Question(subject=(subject or words,), detail={}, messages=user(words), **more)


def as_older(line):
    """A line as it was before lines had hashes."""
    return {name: value for name, value in line.items() if name != OWN_HASH}
