"""The studio's requests, with a tiny model: what is drawn is a conversation on disk, and nobody can do harm."""

import asyncio
import gc
import importlib.metadata
import subprocess
import sys
import threading
import tomllib
import weakref
from pathlib import Path

import got_kit
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from got.__main__ import main
from got.conversation import ENTRIES_FILE, STATE_FILE, Conversation, only_writer
from got.util.images import png_bytes

pytest.importorskip("starlette", reason="the studio needs starlette")
pytest.importorskip("uvicorn", reason="the studio needs uvicorn")

import studio_kit

from got.studio import worker
from got.studio.sessions import Sessions
from got.studio.worker import Busy, Job, Worker

QUICK = {"num_inference_steps": 2}
DRAW = {"kind": "draw", "prompt": "a red apple", "chain": {"text": got_kit.BOTH, "names": []}, "options": QUICK}
PNG = png_bytes(Image.new("RGB", (40, 32), "red"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("studio")


@pytest.fixture(scope="module")
def visitor(root):
    with studio_kit.served(root, got_kit.make_pipeline(), "--queue=2", "--max-upload=1") as address:
        yield studio_kit.Visitor(address)


def test_a_drawing_is_told_step_by_step_and_kept(visitor, root):
    name = visitor.new()
    events = list(visitor.events(name, DRAW))
    kinds = [event["kind"] for event in events]
    assert [*dict.fromkeys(kinds)] == ["accepted", "running", "image", "chain", "step", "session", "done"]
    assert [bool(event["url"]) for event in events if event["kind"] == "step"] == [True, False], "a preview on the way"
    plan = next(event["plan"] for event in events if event["kind"] == "chain")
    assert [region["text"] for region in plan["regions"]] == ["a red apple", "a blue dog"]
    state = visitor.json(f"/api/sessions/{name}")
    assert state.pop("job") is None
    assert state == next(event["session"] for event in events if event["kind"] == "session")
    talk = Conversation.load(root / name)
    assert (talk.entry.chain, talk.entry.given, talk.entry.options) == (got_kit.BOTH, True, QUICK)
    status, headers, file = visitor.ask(f"/api/sessions/{name}/0.png")
    assert (status, headers["content-type"], file) == (200, "image/png", (root / name / "0000.png").read_bytes())
    assert state["chat"] == f"python -m got chat --output={root / name} --resume"
    assert name in [one["name"] for one in visitor.json("/api/sessions")]


def test_the_page_knows_its_model(visitor):
    about = visitor.json("/api/about")
    assert (about["factor"], about["most_images"], about["run"]) == (4, 8, None)
    assert about["usual"].items() >= {"width": 32, "height": 32}.items()
    assert about["scales"]["edit"] == {"semantic": 2.5, "spatial": 2.5, "reference": 1.5, "interval": [0, 1]}


def test_several_seeds_beyond_what_javascript_counts(visitor):
    name, seeds = visitor.new(), [str(2**62 + 1), str(2**62 + 2)]
    visitor.work(name, **DRAW, seed=seeds[0], images=2)
    assert [entry["seed"] for entry in visitor.json(f"/api/sessions/{name}")["entries"]] == seeds


def test_a_changed_plan_is_drawn_with_the_same_noise_and_undone(visitor):
    name = visitor.new()
    visitor.work(name, **DRAW, seed="7")
    plan = visitor.json(f"/api/sessions/{name}")["entries"][0]["plan"]
    held = {"text": plan["text"], "names": [region["text"] for region in plan["regions"]]}
    for change in (
        ["move", 0, [0, 0, 500, 500]],
        ["replace", 1, "a computer mouse"],
        ["remove", 0],
        ["add", "dogs", [1, 2, 3, 4]],
    ):
        plan = visitor.json("/api/plan", {"plan": held, "change": change})
        held = {"text": plan["text"], "names": [region["text"] for region in plan["regions"]]}
    assert held["names"] == ["a computer mouse", "dogs"]
    made = visitor.work(name, kind="revise", entry=0, chain=held)["session"]["session"]
    assert (made["current"], made["entries"][1]["seed"]) == (1, "7")
    assert made["entries"][1]["instruction"] == "a photo of a computer mouse and dogs"
    assert visitor.json(f"/api/sessions/{name}/go/undo", {})["current"] == 0
    assert visitor.json(f"/api/sessions/{name}/go/redo", {})["current"] == 1
    assert visitor.json(f"/api/sessions/{name}/go/0", {})["undo"]
    assert "redo" in visitor.refused(f"/api/sessions/{name}/go/redo", {})
    for nowhere in ("2", "-1", "back"):
        assert "Expected an entry from 0 to 1" in visitor.refused(f"/api/sessions/{name}/go/{nowhere}", {})


def test_a_plan_made_by_hand_is_drawn_and_needs_no_prompt(visitor):
    name = visitor.new()
    plan = visitor.json("/api/plan", {"plan": {"text": "dogs (0,0),(500,500)", "names": []}})
    assert plan["regions"][0]["box_1000"] == [0, 0, 500, 500], "boxes may be written without the model's tokens"
    held = {"text": plan["text"], "names": ["dogs"]}
    made = visitor.work(name, kind="draw", prompt="", chain=held, options=QUICK)["session"]["session"]["entries"][0]
    assert (made["instruction"], made["plan"]["text"]) == ("a photo of dogs", plan["text"])
    edit = {"kind": "edit", "prompt": "dogs", "entry": 0, "chain": held, "options": QUICK, "seed": "1", "images": 2}
    entries = visitor.work(name, **edit)["session"]["session"]["entries"]
    assert [(one["kind"], one["source"], one["seed"]) for one in entries[1:]] == [
        ("edited", 0, "1"),
        ("edited", 0, "2"),
    ]
    assert {one["plan"]["text"] for one in entries} == {plan["text"]}


def test_a_plan_alone_changes_nothing_and_can_be_stopped(tmp_path):
    pipeline, words, begun, go_on = got_kit.make_pipeline(), [], threading.Event(), threading.Event()

    def at_a_word(*_):
        words.append(1)
        begun.set()
        assert go_on.wait(60)

    with studio_kit.served(tmp_path, pipeline) as address:
        visitor = studio_kit.Visitor(address)
        name = visitor.new()
        visitor.work(name, **DRAW)
        pipeline.mllm.register_forward_hook(at_a_word)
        told = visitor.events(name, {"kind": "plan", "prompt": "a red apple"})
        job = next(told)["job"]
        assert begun.wait(60)
        assert visitor.json(f"/api/sessions/{name}/go/undo", {})["current"] is None, "it is not being drawn in"
        visitor.ask(f"/api/jobs/{job}/stop", {})
        go_on.set()
        assert [event["kind"] for event in told][-1] == "stopped"
        assert len(words) == 1


def test_what_cannot_be_parsed_is_marked_and_nothing_is_lost(visitor):
    text = "😀 a dog <|box_start|>(0,0),(9<|box_end|> (red) and a cat <|box_start|>(0,0),(9,9)<|box_end|> (reddish)"
    plan = visitor.json("/api/plan", {"plan": {"text": text, "names": []}})
    assert plan["text"] == text
    marked = [text[start:end] for start, end, _ in plan["faults"]]
    assert marked == ["<|box_start|>(0,0),(9<|box_end|>", "reddish"]


def test_an_upload_is_edited_and_the_difference_shown(visitor):
    name = visitor.new()
    state = visitor.json(f"/api/sessions/{name}/open", PNG)
    assert [entry["kind"] for entry in state["entries"]] == ["opened"]
    made = visitor.work(name, kind="edit", prompt="dogs", entry=0, options=QUICK | {"max_new_tokens": 3})["session"]
    edit = made["session"]["entries"][1]
    assert (edit["kind"], edit["source"]) == ("edited", 0)
    file = visitor.ask(f"/api/sessions/{name}/1/changed.png")[2]
    assert file.startswith(b"\x89PNG")
    assert "no edit" in visitor.refused(f"/api/sessions/{name}/0/changed.png")


def test_what_each_guidance_does_is_shown_and_not_kept(visitor):
    name = visitor.new()
    visitor.work(name, **DRAW)
    events = list(visitor.events(name, {"kind": "explain", "entry": 0}))
    assert [event["title"] for event in events if event["kind"] == "condition"] == [
        "layout", "layout, as seen", "reference, as seen",
    ]  # fmt: skip
    variants = {event["title"]: event["url"] for event in events if event["kind"] == "variant"}
    assert len(set(variants.values())) == len(variants) == 5
    assert len(visitor.json(f"/api/sessions/{name}")["entries"]) == 1


@pytest.mark.parametrize(
    "content", [b"", b"no image", PNG[:60], b"\x00" * 1_100_000], ids=["empty", "text", "cut", "large"]
)
def test_bad_uploads_are_refused_in_plain_words(visitor, content):
    name = visitor.new()
    words = visitor.refused(f"/api/sessions/{name}/open", content)
    assert words.startswith("Expected a") or words == "Content Too Large"
    assert visitor.json(f"/api/sessions/{name}")["entries"] == []


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"kind": "draw", "prompt": " "}, "Expected a prompt with words"),
        ({"kind": "draw", "prompt": "a red apple", "seed": "-1"}, "Expected a seed that is a whole number from 0 up"),
        ({"kind": "draw", "prompt": "a red apple", "images": 0}, "Expected 1 to 8 images but got 0"),
        ({"kind": "draw", "prompt": "a red apple", "seed": str(2**63 - 1), "images": 2}, "all below 2^63"),
        ({"kind": "draw", "prompt": "a red apple", "images": 9}, "1 to 8 images"),
        ({"kind": "draw", "prompt": "a red apple", "options": {"width": 33}}, "multiples of"),
        ({"kind": "draw", "prompt": "a red apple", "options": {"width": 10**9}}, "at most 4096"),
        ({"kind": "draw", "prompt": "a red apple", "options": {"callback_on_step_end": 1}}, "no setting"),
        ({"kind": "draw", "prompt": "a red apple", "options": {"scheduler": "best"}}, "Expected a scheduler of"),
        ({"kind": "edit", "prompt": "dogs", "entry": 5}, "but got 5"),
        ({"kind": "revise", "entry": "0"}, "Expected an entry"),
        ({"kind": "dance"}, "expected one of draw, edit"),
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_done_says_why(visitor, asked, words):
    assert words in visitor.work(visitor.new(), **asked)["error"]["words"]


@given(
    body=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["plan", "text", "names", "change"]), inner),
    )
)
def test_whatever_is_sent_the_answer_is_a_sentence(visitor, body):
    status, _, content = visitor.ask("/api/plan", body if body is not None else b"{")
    assert status in (200, 400)
    assert content


def test_no_name_leads_out_of_the_folder(visitor, root):
    (root.parent / "outside").mkdir(exist_ok=True)
    Conversation().save(root.parent / "outside")
    for name in ("..%2Foutside", "%2e%2e", "..", ".hidden", "a%00b", "nothing"):
        status, _, content = visitor.ask(f"/api/sessions/{name}")
        assert status in (400, 404), content
    assert visitor.ask("/..%2Fserver.py")[0] == 404


def test_pages_of_other_sites_are_refused(visitor):
    assert visitor.ask("/", Host="evil.example")[0] == 400
    assert visitor.ask("/api/sessions", {}, Origin="http://evil.example")[0] == 403
    status, headers, page = visitor.ask("/")
    assert status == 200
    assert b"http:" not in page.replace(b"http://www.w3.org", b"")
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "http" not in headers["content-security-policy"]


def test_another_address_wants_its_token(tmp_path):
    with studio_kit.served(tmp_path, got_kit.pipeline(), token="secret") as address:
        visitor = studio_kit.Visitor(address)
        assert [visitor.ask(path)[0] for path in ("/", "/api/about", "/?token=wrong")] == [401] * 3
        status, headers, _ = visitor.ask("/?token=secret")
        assert (status, headers["location"]) == (303, "/")
        cookie = headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert visitor.ask("/", Cookie=cookie.split(";")[0])[0] == 200


def test_the_queue_tells_places_has_a_bound_and_can_be_stopped(visitor, monkeypatch):
    monkeypatch.setattr(worker, "PATIENCE_SECONDS", 0)
    long = DRAW | {"options": {"num_inference_steps": 900}}
    names, firsts, ends = [visitor.new() for _ in range(3)], [], []

    def wait(events):
        ends.append([event["kind"] for event in events][-1])

    running = visitor.events(names[0], long)
    while next(running)["kind"] != "step":
        pass
    waiting = [visitor.events(name, long) for name in names[1:]]
    firsts = [[next(events), next(events)] for events in waiting]
    assert [told[1]["ahead"] for told in firsts] == [1, 2]
    assert "are waiting already as may" in visitor.refused(f"/api/sessions/{visitor.new()}/jobs", DRAW)
    assert "being drawn" in visitor.refused(f"/api/sessions/{names[0]}/go/undo", {})
    for told in reversed(firsts):
        assert visitor.ask(f"/api/jobs/{told[0]['job']}/stop", {})[0] == 204
    running.close()  # as a page that is closed
    threads = [threading.Thread(target=wait, args=[events]) for events in waiting]
    [thread.start() for thread in threads]
    [thread.join(60) for thread in threads]
    assert ends == ["stopped", "stopped"]
    assert [len(visitor.json(f"/api/sessions/{name}")["entries"]) for name in names] == [0, 0, 0]
    assert visitor.work(names[0], **DRAW)["done"], "the next job is none the worse"


def test_a_session_can_be_changed_while_it_is_only_looked_at(tmp_path):
    looks, seen = threading.Event(), threading.Event()

    class Observer:
        def observe(self, image, words, chain, seed):
            looks.set()
            assert seen.wait(60)
            return {"words": words}

    with studio_kit.served(tmp_path, got_kit.make_pipeline(), observer=Observer()) as address:
        visitor = studio_kit.Visitor(address)
        name = visitor.new()
        seen.set()
        visitor.work(name, **DRAW)
        visitor.work(name, **DRAW)
        looks.clear()
        seen.clear()
        told = visitor.events(name, {"kind": "observe", "entry": 0})
        next(told)
        assert looks.wait(60)
        try:
            visitor.json(f"/api/sessions/{name}/go/undo", {})
        finally:
            seen.set()
        assert [event["kind"] for event in told][-2:] == ["seen", "done"]


async def until(told, kind):
    """The first event of a kind."""
    async for event in told:
        if event["kind"] == kind:
            return event
    raise AssertionError(f"no event {kind}")


def test_a_page_that_is_closed_while_it_waits_makes_room(monkeypatch):
    monkeypatch.setattr(worker, "PATIENCE_SECONDS", 0)

    async def wait():
        thread, begun, end = Worker(limit=1), threading.Event(), threading.Event()
        try:
            thread.submit(Job("talk", {}, lambda job: (begun.set(), end.wait(60))))
            assert begun.wait(60)
            closed = Job("talk", {}, lambda job: None)
            thread.submit(closed)
            told = closed.events()
            assert (await until(told, "waiting"))["ahead"] == 1
            await told.aclose()  # as the server does
            while closed.id in thread.jobs:
                await asyncio.sleep(0)
            last = Job("talk", {}, lambda job: None)
            thread.submit(last)
            told = last.events()
            assert (await until(told, "waiting"))["ahead"] == 1
            with pytest.raises(Busy):
                thread.submit(Job("talk", {}, lambda job: None))
            end.set()
            assert [event["kind"] async for event in told][-1] == "done"
        finally:
            end.set()
            thread.end()

    asyncio.run(wait())


def test_what_a_job_told_is_dropped_with_its_end():
    async def wait():
        thread = Worker(limit=1)
        job = Job("talk", {}, lambda job: job.say("step"))
        thread.submit(job)
        assert [event["kind"] async for event in job.events()] == ["accepted", "running", "step", "done"]
        thread.end(wait=True)
        held = weakref.ref(job)
        del job
        gc.disable()  # nor may it wait for that
        await asyncio.sleep(0.01)
        assert held() is None

    try:
        asyncio.run(wait())
    finally:
        gc.enable()


def test_a_page_that_is_loaded_again_hears_all_of_its_job_and_stops_it_for_all(visitor, root):
    name = visitor.new()
    assert visitor.json(f"/api/sessions/{name}")["job"] is None
    long = DRAW | {"options": {"num_inference_steps": 900}}
    first = visitor.events(name, long)
    heard = [next(first) for _ in range(8)]
    assert heard[0]["asked"] == long
    first.close()
    job = visitor.json(f"/api/sessions/{name}")["job"]
    assert job == heard[0]["job"]
    again = visitor.told(f"/api/jobs/{job}")
    assert [next(again) for _ in heard] == heard
    assert next(again)["kind"] == "step", "it goes on"
    assert visitor.ask(f"/api/jobs/{job}/stop", {})[0] == 204
    assert [event["kind"] for event in again][-1] == "stopped"
    visitor.work(visitor.new(), **DRAW)  # which is drawn when that one is over
    assert visitor.json(f"/api/sessions/{name}")["job"] is None
    assert [event["kind"] for event in visitor.told(f"/api/jobs/{job}")] == ["done"]
    visitor.work(name, **DRAW)
    assert len(Conversation.load(root / name).entries) == 1, "the stopped one has left nothing that is in the way"


def test_a_session_goes_on_in_the_terminal_and_back(visitor, root):
    name = visitor.new()
    visitor.work(name, **DRAW)
    talk = Conversation.load(root / name, got_kit.pipeline())
    talk.draw("a blue dog", chain=got_kit.APPLE, **QUICK)
    talk.save(root / name)
    assert len(visitor.json(f"/api/sessions/{name}")["entries"]) == 2
    visitor.work(name, kind="revise", entry=1, chain={"text": got_kit.BOTH, "names": []})
    assert [entry.chain for entry in Conversation.load(root / name).entries] == [
        got_kit.BOTH,
        got_kit.APPLE,
        got_kit.BOTH,
    ]


class Lines:
    """Standard input that is written while it is read."""

    def __init__(self, lines):
        self.lines = lines

    def __iter__(self):
        return self.lines

    def isatty(self):
        return False


def test_one_program_at_a_time_goes_on_with_a_session(visitor, root, monkeypatch, capsys):
    name = visitor.new()
    undo = f"/api/sessions/{name}/go/undo"
    visitor.work(name, **DRAW)
    with only_writer(root / name):
        assert "in use by another process" in visitor.work(name, **DRAW)["error"]["words"]
        assert "in use by another process" in visitor.refused(undo, {})
        assert len(visitor.json(f"/api/sessions/{name}")["entries"]) == 1, "looking at it is no harm"
        assert main(["chat", "--resume", f"--output={root / name}"]) == 2
        assert "in use by another process" in capsys.readouterr().err
    inside = []

    def lines():
        yield "/undo"
        inside.append(visitor.refused(undo, {}))

    monkeypatch.setattr("sys.stdin", Lines(lines()))
    assert main(["chat", "--resume", f"--output={root / name}"]) == 0
    assert "in use by another process" in inside[0]
    assert visitor.work(name, **DRAW)["done"], "the chat has ended"
    assert len(Conversation.load(root / name).entries) == 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--sample", "00000/0"], "--sample names a sample of --run"),
        (["--host", "192.0.2.1", "--port", "0"], "cannot listen on 192.0.2.1"),
        (["--port", "70000"], "whole number from 0 to 65535"),
    ],
)
def test_slips_of_the_command_are_one_line(flags, words, capsys):
    assert main(["studio", *flags]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_slips_are_told_before_libraries_are_loaded(tmp_path):
    (tmp_path / "file").touch()
    for flags in (["--host", "192.0.2.1"], ["--port", "0", "--output", str(tmp_path / "file")]):
        code = f"import sys; from got.__main__ import main; print(main({['studio', *flags]!r}), 'torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert (done.stdout, done.stderr.count("\n")) == ("2 False\n", 1), done.stderr


def test_the_package_announces_who_looks_and_who_reads_runs():
    wanted = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["entry-points"][
        "got.studio"
    ]
    found = {point.name: point.value for point in importlib.metadata.entry_points(group="got.studio")}
    if not found:
        pytest.skip("installed before it had the studio: pip install -e . again")
    assert found == wanted
    assert all(isinstance(point.load(), type) for point in importlib.metadata.entry_points(group="got.studio"))


def test_a_session_that_cannot_be_read_is_left_out_of_the_list(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / STATE_FILE).write_text("{}")
    (tmp_path / "one" / ENTRIES_FILE).write_text('{"instruction": "a cat"}\n')
    (tmp_path / "other" / ENTRIES_FILE).mkdir()
    listed = Sessions(tmp_path, got_kit.make_pipeline()).listed()
    assert [(one["name"], one["title"]) for one in listed] == [("one", "a cat")]
