"""Annotation end to end: icon scenes, an endpoint that knows their truth, and all that can go wrong there."""

import collections
import json
import random
import threading

import pytest
from annotate_kit import (
    FAST,
    Truth,
    annotate,
    drawings,
    drawn,
    edited,
    edits,
    lines,
    names_in,
    png,
    scenes,
    stage_of,
    stored,
    turns,
)
from judge_kit import fails, says, serve

from got.data import storage
from got.data.annotate.prompts import prompts_hash
from got.data.records import DataError
from got.iconworld import parse_phrase
from got.plan.chain import MASK_COLORS, Chain
from got.vlm.clients import SetupError


def planned(chain):
    return [(parse_phrase(region.text), region.box_1000) for region in Chain.parse(chain).regions]


def truth_of(items):
    return [((item.name, item.color), item.box_1000) for item in items]


# -------------------------------------------------------------------------------------------------------- right answers
@pytest.mark.parametrize("convention", ["pixels", "thousandths", "unit"])
def test_images_get_a_prompt_and_the_chain_of_their_truth(tmp_path, convention):
    truth = Truth(convention)
    found, place = drawings(truth, tmp_path / "in", 6)
    with serve(truth) as endpoint:
        counts = annotate(place, tmp_path / "out", endpoint, "--boxes", convention, "--max-pixels", "1000000")
    assert (counts["accepted"], counts["rejected"], counts["failed"]) == (6, {}, {})
    made = {example.id: example for example in storage.read(tmp_path / "out")}
    for id, scene in found.items():
        example, (step,) = made[id], made[id].steps
        assert example.prompt == f"a photo of {' and '.join(names_in(scene))}"
        assert planned(step.chain) == truth_of(scene.objects)
        assert [region.color for region in Chain.parse(step.chain).regions] == list(MASK_COLORS[: len(scene.objects)])
        assert step.target.read_bytes() == png(scene)
        assert list(example.problems()) == []
        assert example.provenance.made_by == f"vl-1, prompts {prompts_hash()}"
        assert (example.provenance.dataset, example.provenance.origin) == ("icons", "seed")


def test_edits_of_every_task_say_what_is_done_where(tmp_path):
    truth, found = Truth("unit"), edits(10)
    for edit in found:
        truth.knows_edit(edit)
    place = stored(tmp_path / "in", [edited([edit], f"e{n}", edit.instruction) for n, edit in enumerate(found)])
    with serve(truth) as endpoint:
        counts = annotate(place, tmp_path / "out", endpoint, *FAST)
    assert (counts["accepted"], counts["failed"], counts["rejected"]) == (10, {}, {})
    for n, example in enumerate(sorted(storage.read(tmp_path / "out"), key=lambda e: int(e.id[1:]))):
        edit, (chain,) = found[n], example.chains
        changed = [*edit.erased, *([] if edit.kind == "recolor" else edit.drawn)]
        assert planned(chain) == truth_of(changed)
        assert chain.startswith("The picture shows")
        assert "Now: " in chain
        assert example.prompt == edit.instruction
    assert len(truth.crops) == sum(len(planned(example.chains[0])) for example in storage.read(tmp_path / "out"))


def test_the_steps_of_a_multi_turn_edit_are_one_chain_when_read_together(tmp_path):
    first, second = turns()
    truth = Truth("unit")
    truth.knows_edit(first)
    truth.knows_edit(second)
    place = stored(tmp_path / "in", [edited([first, second], "m")])
    with serve(truth) as endpoint:
        annotate(place, tmp_path / "out", endpoint, *FAST)
    (example,) = storage.read(tmp_path / "out")
    assert example.prompt == f"{first.instruction} then {second.instruction}"
    assert planned(example.chains[0]) == truth_of(first.drawn)
    assert ["The picture shows" in chain.split("Now:")[0] for chain in example.chains] == [True, False]
    assert ["Now: " in chain for chain in example.chains] == [False, True]
    assert truth.asked["describe"] == 3  # the image between the steps is described once


def test_the_task_that_a_data_set_names_is_not_up_to_the_model(tmp_path):
    truth, (edit,) = Truth("unit"), edits(1)
    truth.knows_edit(edit)
    place = stored(tmp_path / "in", [edited([edit], "e", edit.instruction, task="object_removal")])
    with serve(truth) as endpoint:
        counts = annotate(place, tmp_path / "out", endpoint, *FAST)
    assert counts["failed"] == {"parse: wrong task": 1}


def test_a_caption_is_kept_and_shown_to_the_model(tmp_path):
    truth = Truth("unit")
    (scene,) = scenes(1, seed=5)
    truth.knows(scene)
    caption = f"look: {names_in(scene)[0]}"
    place = stored(tmp_path / "in", [drawn(scene, "s", caption)])
    with serve(truth) as endpoint:
        annotate(place, tmp_path / "out", endpoint, *FAST)
    (example,) = storage.read(tmp_path / "out")
    assert example.prompt == caption
    assert json.dumps(caption) in stage_of(endpoint.requests[0])[1]


def test_a_folder_of_images_will_do(tmp_path):
    truth = Truth("unit")
    for number, scene in enumerate(scenes(3)):
        truth.knows(scene)
        file = tmp_path / "in" / f"part {number}" / "a.b.png"
        file.parent.mkdir(parents=True)
        file.write_bytes(png(scene))
    (tmp_path / "in" / "notes.txt").write_text("no image")
    with serve(truth) as endpoint:
        annotate(tmp_path / "in", tmp_path / "out", endpoint, *FAST, "--license", "CC0-1.0", "--format", "parquet")
    made = sorted(storage.read(tmp_path / "out"), key=lambda example: example.id)
    assert [example.id for example in made] == [f"part_{number}_a_b_png" for number in range(3)]
    assert {(example.provenance.dataset, example.provenance.license) for example in made} == {("in", "CC0-1.0")}
    assert made[1].provenance.origin == "part 1/a.b.png"


def test_the_request_shows_the_image_first_and_asks_as_it_was_told(tmp_path):
    truth = Truth("unit")
    _, place = drawings(truth, tmp_path / "in", 1)
    words = ("--json", "--max-tokens", "77", "--temperature", "0.25", "--extra", '{"top_p": 0.9}', "--rpm", "60000")
    with serve(truth) as endpoint:
        annotate(place, tmp_path / "out", endpoint, *FAST, *words)
    (request, *_) = endpoint.requests
    assert [part["type"] for part in request["messages"][0]["content"]] == ["image_url", "text"]
    assert (request["model"], request["max_tokens"], request["temperature"]) == ("vl-1", 77, 0.25)
    assert (request["response_format"], request["top_p"]) == ({"type": "json_object"}, 0.9)


def test_jpeg_files_are_sent_where_they_are_asked_for_and_one_output_has_one_kind(tmp_path):
    _, place = drawings(Truth("unit"), tmp_path / "in", 1)
    with serve(says("hm")) as endpoint:
        annotate(place, tmp_path / "out", endpoint, *FAST, "--jpeg", "80", "--attempts", "1")
        with pytest.raises(DataError, match="was begun with images 'jpeg80' but this is ''"):
            annotate(place, tmp_path / "out", endpoint, *FAST)
    url = endpoint.requests[0]["messages"][0]["content"][0]["image_url"]["url"]
    assert url.startswith("data:image/jpeg;base64,/9j/")
    assert json.loads((tmp_path / "out" / "annotate.json").read_text())["images"] == "jpeg80"


def test_an_answer_as_parts_is_read_and_the_folder_goes_on_after_one_of_unknown_form(tmp_path):
    truth, odd = Truth("unit"), []
    _, place = drawings(truth, tmp_path / "in", 2)

    def parts(request):
        text = truth(request)["choices"][0]["message"]["content"]
        whole = [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": text}]
        odd.append(request)
        return says({"never": "seen"} if len(odd) == 3 else whole)

    with serve(parts) as endpoint:
        counts = annotate(place, tmp_path / "out", endpoint, *FAST)
        assert (counts["accepted"], sum(counts["failed"].values())) == (1, 1)
        counts = annotate(place, tmp_path / "out", endpoint, *FAST)
    assert (counts["accepted"], counts["failed"]) == (2, {})


def test_a_run_whose_questions_all_fail_is_no_success_though_there_are_chains_of_before(tmp_path, capsys):
    truth = Truth("unit")
    _, place = drawings(truth, tmp_path / "in", 2)
    with serve(truth) as endpoint:
        assert "ok" not in annotate(place, tmp_path / "out", endpoint, *FAST, "--limit", "1")
        endpoint.script[:] = [fails(400, "no more images")]
        counts = annotate(place, tmp_path / "out", endpoint, *FAST)
    assert (counts["ok"], counts["accepted"], counts["failed"]) == (False, 1, {"describe: rejected": 1})
    assert "note: the model: rejected: HTTP 400: no more images" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------------- faults
BROKEN = {
    "bad json": says('{"description": "A dog'),
    "prose": says("It is a nice image."),
    "wrong keys": says('{"caption": "A dog"}'),
    "truncated": says('{"description": "A', finish="length"),
    "429": fails(429, "slow down", retry_after_ms="1"),
    "500": fails(500, "oops", retry_after_ms="1"),
    "page": b"<html>Bad gateway</html>",
    "cut": {"body": says("{}"), "cut": True},
}


def test_broken_replies_now_and_then_cost_requests_and_no_samples(tmp_path):
    truth, chance, sent = Truth("unit"), random.Random(3), collections.Counter()
    found, place = drawings(truth, tmp_path / "in", 8)

    def shaky(request):
        broken = chance.random() < 0.25 and chance.choice(list(BROKEN))
        sent[broken or "good"] += 1
        return BROKEN[broken] if broken else truth(request)

    with serve(shaky) as endpoint:
        counts = annotate(place, tmp_path / "out", endpoint, *FAST, "--attempts", "6", "--concurrency", "4")
    assert sum(sent.values()) - sent["good"] >= 5
    assert (counts["accepted"], counts["failed"]) == (8, {})
    for example in storage.read(tmp_path / "out"):
        assert planned(example.chains[0]) == truth_of(found[example.id].objects)
    replies = lines(tmp_path / "out" / "replies.jsonl")
    assert len(replies) == counts["replies"] >= sent["good"]  # every one that came back whole, good or bad


def outside(request):
    return says('{"boxes": [{"object": 1, "bbox_2d": [0.1, 0.1, 1.3, 0.5]}]}')


@pytest.mark.parametrize(
    ("stage", "step", "cause"),
    [
        ("describe", BROKEN["bad json"], "unparsable"),
        ("describe", says("I'm sorry, I can't help with that."), "refusal"),
        ("describe", says("", refusal="no"), "refusal"),
        ("describe", says('{"description": "I am sorry, I cannot see it.", "prompt": "x"}'), "refusal"),
        ("describe", BROKEN["truncated"], "truncated"),
        ("describe", fails(429, "slow down", retry_after_ms="1"), "rate limit"),
        ("describe", fails(400, "image too large"), "rejected"),
        ("extract", says('{"objects": ["a dragon"]}'), "not verbatim"),
        ("ground", says('{"boxes": []}'), "unparsable"),
        ("ground", says('{"boxes": [{"object": 1, "bbox_2d": [0.5, 0.1, 0.4, 0.5]}]}'), "illegal box"),
        ("ground", outside, "box outside"),
    ],
)
def test_what_stays_broken_is_missing_with_stage_and_cause(tmp_path, stage, step, cause):
    truth = Truth("unit")
    _, place = drawings(truth, tmp_path / "in", 2)

    def broken(request):
        chosen = step(request) if callable(step) else step
        return chosen if stage_of(request)[0] == stage else truth(request)

    words = ("--attempts", "2", "--retries", "1")
    with serve(broken) as endpoint:
        counts = annotate(place, tmp_path / "out", endpoint, *FAST, *words)
        assert counts["failed"] == {f"{stage}: {cause}": 2}
        assert list(storage.read(tmp_path / "out")) == []
        failures = lines(tmp_path / "out" / "failures.jsonl")
        assert {(line["id"], line["stage"], line["cause"]) for line in failures} == {
            ("s0", stage, cause),
            ("s1", stage, cause),
        }
        # A reply that came is paid; asking the same once more could only give the same.
        before = len(endpoint.requests)
        assert annotate(place, tmp_path / "out", endpoint, *FAST, *words)["failed"] == counts["failed"]
        came = lines(tmp_path / "out" / "replies.jsonl")
        paid = any(line["stage"] == stage for line in came)
        assert (len(endpoint.requests) == before) == paid
    # What got no reply, or has attempts left, is tried again.
    with serve(truth) as endpoint:
        counts = annotate(place, tmp_path / "out", endpoint, *FAST, "--attempts", "3")
    assert (counts["accepted"], counts["failed"]) == (2, {})
    assert lines(tmp_path / "out" / "failures.jsonl") == []


def test_another_attempt_is_another_question(tmp_path):
    truth = Truth("unit")
    _, place = drawings(truth, tmp_path / "in", 1)
    with serve(BROKEN["prose"], truth) as endpoint:
        annotate(place, tmp_path / "out", endpoint, *FAST)
    first, second = endpoint.requests[:2]
    assert first["messages"] == second["messages"]
    assert (first["temperature"], second["temperature"], second["seed"] - first["seed"]) == (0, 0.7, 1)
    replies = lines(tmp_path / "out" / "replies.jsonl")
    assert [(line["attempt"], line["text"]) for line in replies[:2]] == [
        (0, "It is a nice image."),
        (1, truth_text(truth, endpoint)),
    ]
    assert all(line["served_by"] == "judge-1 fp_7" for line in replies)
    assert "127.0.0.1" not in (tmp_path / "out" / "replies.jsonl").read_text()


def truth_text(truth, endpoint):
    return json.dumps(truth.reply(endpoint.requests[0]))


def test_a_refusal_is_paid_on_record_and_not_paid_again(tmp_path):
    """The tests' endpoint counts 1,000 tokens in and 50 out."""
    _, place = drawings(Truth("unit"), tmp_path / "in", 2)
    words = (*FAST, "--attempts", "2", "--price", "1", "2")
    with serve(says("", refusal="I will not look at this.")) as endpoint:
        first, again = (annotate(place, tmp_path / "out", endpoint, *words) for _ in range(2))
        assert len(endpoint.requests) == 4
    assert first["failed"] == again["failed"] == {"describe: refusal": 2}
    assert [line["finish"] for line in lines(tmp_path / "out" / "replies.jsonl")] == ["refusal"] * 4
    for counts in (first, again):
        assert (counts["replies"], counts["tokens_in"], counts["tokens_out"]) == (4, 4000, 200)
        assert counts["usd"] == pytest.approx(4 * (1000 + 2 * 50) / 1e6)


@pytest.mark.parametrize(
    ("answer", "samples"), [(fails(500), 12), (fails(429, "slow down"), 12), (fails(400, "no such option"), 70)]
)
def test_an_endpoint_that_answers_nobody_ends_the_run(tmp_path, answer, samples):
    _, place = drawings(Truth("unit"), tmp_path / "in", samples)
    with serve(answer) as endpoint, pytest.raises(SetupError, match="the model does not answer"):
        annotate(place, tmp_path / "out", endpoint, *FAST, "--retries", "0", "--attempts", "1")


def test_a_question_that_is_not_accepted_is_its_samples_own_fault(tmp_path):
    """Twelve of them, first in line and again in the next run, keep no other sample from an answer."""
    truth = Truth("unit")
    _, place = drawings(truth, tmp_path / "in", 16)
    images = []

    def answer(request):
        for part in request["messages"][0]["content"]:
            if "image_url" in part and part["image_url"]["url"] not in images:
                images.append(part["image_url"]["url"])
            if "image_url" in part and part["image_url"]["url"] in images[:12]:
                return fails(400, "the context is too long")
        return truth(request)

    with serve(answer) as endpoint:
        first, again = (annotate(place, tmp_path / "out", endpoint, *FAST, "--concurrency", "2") for _ in range(2))
    assert first["accepted"] == again["accepted"] == 4
    assert first["failed"] == again["failed"] == {"describe: rejected": 12}


def test_a_model_with_another_word_for_the_length_is_asked_in_its_own(tmp_path):
    """All questions under way are refused before the first answer comes."""
    truth, refused = Truth("unit"), threading.Barrier(12, timeout=60)
    _, place = drawings(truth, tmp_path / "in", 12)

    def answer(request):
        if "max_tokens" in request:
            refused.wait()
            return fails(400, "Unsupported parameter: use max_completion_tokens instead")
        return truth(request)

    with serve(answer) as endpoint:
        counts = annotate(place, tmp_path / "out", endpoint, *FAST, "--concurrency", "16")
    assert (counts["accepted"], counts["failed"]) == (12, {})


def test_a_wrong_key_or_an_empty_account_ends_the_run(tmp_path):
    _, place = drawings(Truth("unit"), tmp_path / "in", 2)
    empty = fails(429, "out of money", "insufficient_quota")
    with serve(empty) as endpoint, pytest.raises(SetupError, match="out of money"):
        annotate(place, tmp_path / "out", endpoint, *FAST)
    with serve(fails(401, "bad key")) as endpoint, pytest.raises(SetupError, match="HTTP 401"):
        annotate(place, tmp_path / "out", endpoint, *FAST)


def test_a_damaged_image_and_a_damaged_line_fail_alone(tmp_path):
    truth = Truth("unit")
    _, place = drawings(truth, tmp_path / "in", 3)
    damaged = next((place / "images").rglob("s1.*"))
    damaged.write_bytes(damaged.read_bytes()[:200])
    with (place / "examples.jsonl").open("a") as file:
        file.write('{"id": "s3"}\n')
    with serve(truth) as endpoint:
        counts = annotate(place, tmp_path / "out", endpoint, *FAST)
    assert counts["accepted"] == 2
    assert counts["failed"] == {"open: picture": 1, "read: no example": 1}
    details = {line["id"].rsplit("/")[-1]: line["detail"] for line in lines(tmp_path / "out" / "failures.jsonl")}
    assert "damaged" in details["s1"]
    assert "prompt: missing" in details["examples.jsonl:4"]
