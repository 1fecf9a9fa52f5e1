"""The files that commands keep for themselves and for each other, damaged: one sentence, and never another number."""

import asyncio
import contextlib
import dataclasses
import io
import json
import shutil

import got_kit
import pytest
import runner_kit
from data_kit import contents, make_example
from fuzz_kit import INPUTS, survives, through
from judge_kit import says

from evals import judge_agreement, merge
from evals.core.records import UserError
from evals.geneval import prompts
from evals.harness.runner import run
from evals.judged.suite import prompts_of
from got.cli.inputs import read_chain, read_requests
from got.cli.parser import build_parser
from got.conversation import ENTRIES_FILE, STATE_FILE, Conversation, ConversationError
from got.data import storage
from got.data.annotate.command import texts_by_id
from got.data.checking import Findings, check
from got.data.records import DataError
from got.finetune.recipes import RECIPES, Source, changed
from got.util.hashes import OWN_HASH, SealedLog
from got.vlm.asker import Asker, AskSettings, Question
from got.vlm.clients import AskFailed, AskParams, Reply, SetupError
from got.vlm.endpoint import reply_in
from got.vlm.messages import user
from reports import compare
from reports.frames import load_run


# ------------------------------------------------------------------------------------------------------ logs of replies
class Says:
    """A model that counts up."""

    id, secret_free_place = "counts", "local"

    def __init__(self):
        self.asked = 0

    async def ask(self, messages, params, seed):
        self.asked += 1
        return Reply(
            text=f'{{"score": [{self.asked}.5]}}', tokens_in=900, tokens_out=40, finish="stop", served_by="m 1"
        )

    async def close(self):
        pass


QUESTIONS = [Question(subject=(f"c{n}",), detail={"call": "q"}, messages=user(f"image {n}")) for n in range(4)]


def answers(log, backend):
    """What the model has said of each question, with the log of an earlier run."""
    settings = AskSettings(concurrency=1, usd_per_million=(1.0, 2.0))
    asker, found = Asker(backend, settings, log, subject=("case",), identity=("m",), stamp={"judge": "j"}), []

    async def work(question):
        found.append(await asker.ask(question, lambda reply: reply.text))

    asyncio.run(asker.each(QUESTIONS, work))
    return found


@pytest.mark.parametrize("hashed", [True, False])
def test_logs_of_replies(tmp_path, capsys, hashed):
    log = tmp_path / "replies.jsonl"
    wanted = answers(log, Says())
    if not hashed:
        older = [{name: value for name, value in line.items() if name != OWN_HASH} for line in runner_kit.lines(log)]
        log.write_text("".join(json.dumps(line) + "\n" for line in older))

    def read(data):
        log.write_bytes(data)
        return answers(log, Says())

    for found in survives(read, log.read_bytes()):
        new = {f'{{"score": [{n}.5]}}' for n in range(1, 5)}
        if hashed:
            assert all(text == first or text in new for text, first in zip(found, wanted, strict=True))
    capsys.readouterr()


@pytest.mark.parametrize(("name", "form"), [("reasons", r".+"), ("signatures", r"[0-9a-f]{400}")])
def test_logs_of_annotation(tmp_path, name, form):
    log = tmp_path / "log.jsonl"
    first = SealedLog(log, "it is asked again")
    texts = ["boxes: 'a dog' is not where it is said to be (overlap 0.31)"] if name == "reasons" else ["0" * 400]
    for number in range(4):
        first.add({"id": f"s{number}", name: texts})
    wanted = texts_by_id(SealedLog(log, ""), name, form)
    read = through(log, lambda path: texts_by_id(SealedLog(path, "it is asked again"), name, form))
    for found in survives(read, log.read_bytes()):
        assert found.items() <= wanted.items(), "damage became another number"


def test_answers_of_endpoints():
    answer = says('{"score": [8]}')
    top = [{"token": "Yes", "logprob": -0.5}, {"token": " yes", "logprob": -2.0}]
    answer["choices"][0]["logprobs"] = {"content": [{"token": "Yes", "logprob": -0.5, "top_logprobs": top}]}

    def read(data):
        try:
            return reply_in(json.loads(data), AskParams(spellings=("Yes",)))
        except (ValueError, RecursionError) as error:
            raise SetupError(f"no JSON: {error}") from None

    for reply in survives(read, json.dumps(answer).encode(), (AskFailed, SetupError)):
        json.dumps(dataclasses.asdict(reply), allow_nan=False)


# -------------------------------------------------------------------------------------------------------- conversations
@pytest.mark.parametrize("name", [STATE_FILE, ENTRIES_FILE, "0001.png"])
def test_conversations(tmp_path, name):
    talk = Conversation(got_kit.pipeline(), num_inference_steps=1, max_new_tokens=3)
    talk.say("a red apple", chain=got_kit.APPLE)
    talk.say("a blue dog")
    talk.undo()
    folder = talk.save(tmp_path / "talk")
    whole = (folder / name).read_bytes()

    def read(data):
        (folder / name).write_bytes(data)
        return Conversation.load(folder)

    wanted = [(entry.chain, entry.seed, entry.options, entry.instruction) for entry in talk.entries]
    for found in survives(read, whole, (ConversationError,)):
        assert [(one.chain, one.seed, one.options, one.instruction) for one in found.entries] == wanted
        assert found.entry.number == talk.entry.number
        assert found.seed == talk.seed


# ------------------------------------------------------------------------------------------------------------- training
def test_recipes():
    words = b"steps=200\0learning_rate=1e-3\0chains=false\0precision=bf16\0batch=8"
    made = survives(
        lambda data: changed(RECIPES["mini"], data.decode("utf-8", "replace").split("\0")), words, (ValueError,)
    )
    assert not any(recipe.problems() for recipe in made)
    survives(lambda data: Source.parse(data.decode("utf-8", "replace")), b"data/edits:0.5", (ValueError,))


@pytest.mark.parametrize("format", storage.FORMATS)
def test_datasets(tmp_path, format):
    with storage.Writer(tmp_path / "data", format=format) as writer:
        for number in range(4):
            writer.add(make_example(number))
    (file,) = storage.files_of(tmp_path / "data")

    def read(data):
        file.write_bytes(data)
        found = Findings()
        problems = list(check(file.parent, found))
        assert all(problem.problem for problem in problems)
        return problems or [contents(one) for one in storage.read(file.parent)]

    survives(read, file.read_bytes(), (DataError,), inputs=INPUTS // 3)


@pytest.mark.parametrize("format", ["folder", "webdataset"])
def test_datasets_that_are_gone_on_with(tmp_path, format):
    with storage.Writer(tmp_path / "data", format=format) as writer:
        for number in range(3):
            writer.add(make_example(number, task=0))
    (file,) = storage.files_of(tmp_path / "data")
    before = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()}

    def read(data):
        shutil.rmtree(tmp_path / "data")
        for path, content in before.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        file.write_bytes(data)
        with storage.Writer(tmp_path / "data", format=format) as writer:
            writer.add(make_example(9, task=0))
            return len(writer.known_ids())

    survives(read, file.read_bytes(), (DataError,), inputs=INPUTS // 3)


# ------------------------------------------------------------------------------------------------------ runs of others
def test_files_of_the_public_scorer(tmp_path):
    lines = []
    for case, told in enumerate(prompts.generate()[:3]):
        for index in range(2):
            line = {"filename": f"/x/{case:05d}/samples/{index:04d}.png", "tag": told["tag"], "prompt": told["prompt"]}
            lines.append({**line, "correct": bool(index), "reason": "", "metadata": json.dumps(told), "details": "{}"})
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    read = through(tmp_path / "results.jsonl", lambda path: compare.of_run(load_run(path)))
    for found in survives(read, data):
        assert found.right


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts") / "run"
    for share in ("1/2", "2/2"):
        run(runner_kit.make_plan(folder, "--limit", "4", "--batch-size", "2", "--shard", share))
    return folder


@pytest.mark.parametrize("name", ["run.json", "part.json", "observations.jsonl", "chains.jsonl"])
def test_parts_of_a_run(parts, tmp_path, name, capsys):
    whole = shutil.copytree(parts, tmp_path / "whole")
    assert merge.main([str(whole)]) == 0
    wanted = runner_kit.contents(whole, ("results.jsonl", "scores.json"))
    folder = shutil.copytree(parts, tmp_path / "run")
    file = folder / "parts" / "1-of-2" / name

    def read(data):
        for left in folder.glob("*.json*"):
            left.unlink()
        file.write_bytes(data)
        code = merge.main([str(folder)])
        said = capsys.readouterr().err
        if code:
            raise UserError(said)
        return runner_kit.contents(folder, ("results.jsonl", "scores.json"))

    for found in survives(read, file.read_bytes(), inputs=INPUTS // 6):
        assert found == wanted, "damage became another number"


def test_rewritten_prompts(tmp_path):
    rows = [{"id": n, "prompt": f"a dog, number {n}"} for n in range(3)]
    made = survives(through(tmp_path / "r.json", prompts_of), json.dumps(rows).encode())
    assert all(isinstance(text, str) for found in made for text in found.values())


def test_ratings_of_people(tmp_path):
    text = b"uid\tM\tN\na.jpg\t[0.5, 1]\t[0, 0]\nb.jpg\t[1, 1]\t[0.5, 0.5]\nc.jpg\t\t7\n"
    survives(through(tmp_path / "r.tsv", lambda path: judge_agreement.read_ratings(path, human=False)), text)


# ------------------------------------------------------------------------------------------------- what is to be drawn
def test_lists_of_prompts_and_plans(tmp_path):
    lines = b'a photo of a dog\n{"prompt": "two cats", "seed": 7, "chain": "two cats (0,0),(500,500)"}\n'

    def read(path):
        words = ["generate", "--prompts", str(path), "--output", str(tmp_path / "out")]
        return read_requests(build_parser().parse_args(words))

    with contextlib.redirect_stderr(io.StringIO()):
        for made in survives(through(tmp_path / "p.txt", read), lines, (UserError, ValueError)):
            assert all(one.prompt.strip() and one.seed >= 0 for one in made)
        plan = b"two cats (0,0),(500,500) and a dog (10,20),(300,400)"
        survives(through(tmp_path / "plan.txt", lambda path: read_chain(str(path))), plan, (UserError, ValueError))
