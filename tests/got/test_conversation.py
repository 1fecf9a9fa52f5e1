"""Draw, edit, look, undo, redo; and a folder from which everything comes back."""

import json
import re
import shutil
from pathlib import Path

import got_kit
import numpy as np
import pytest
from PIL import Image

from got.conversation import ENTRIES_FILE, STATE_FILE, Conversation, ConversationError
from got.plan.chain import Chain
from got.util.images import ImageError

QUICK = {"num_inference_steps": 1, "max_new_tokens": 3}


@pytest.fixture
def talk():
    return Conversation(got_kit.pipeline(), **QUICK)


def make_long(talk):
    """An image, an edit, the edit undone, another edit, its plan changed, undone again."""
    talk.say("a red apple", chain=got_kit.APPLE)
    talk.say("a blue dog")
    talk.undo()
    talk.say("dogs", chain=got_kit.BOTH, seed=7, spatial=False)
    talk.revise(talk.chain.move(0, (0, 0, 500, 500)), num_inference_steps=2)
    talk.undo()
    return talk


@pytest.fixture
def long_talk(talk):
    return make_long(talk)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Its folder, to be copied."""
    return make_long(Conversation(got_kit.pipeline(), **QUICK)).save(tmp_path_factory.mktemp("saved") / "talk")


def pixels(entry):
    return np.asarray(entry.image, dtype=int)


def described(talk):
    """Everything a conversation is, as comparable values."""
    entries = [
        (e.number, e.kind, e.source, e.instruction, e.chain, e.seed, e.options, e.warnings, e.image.tobytes())
        for e in talk.entries
    ]
    return entries, talk.entry and talk.entry.number, talk.seed, talk.options


def test_the_first_request_draws_and_the_next_one_edits_what_is_there(talk):
    first = talk.say("a red apple", chain=got_kit.APPLE)
    assert (first.kind, first.source, first.chain, first.seed) == ("drawn", None, got_kit.APPLE, 42)
    second = talk.say("a blue dog", chain=got_kit.APPLE)
    assert (second.kind, second.source) == ("edited", 0)
    alone = got_kit.pipeline()(
        "a blue dog", image=first.image, chain=got_kit.APPLE, generator=got_kit.generator(42), **QUICK
    )
    assert np.abs(pixels(second) - np.asarray(alone.images[0], int)).max() <= 1
    assert talk.entry is second
    assert talk.image is second.image
    assert str(talk.chain) == got_kit.APPLE


def test_undo_and_redo_walk_along_what_was_looked_at(talk):
    entries = [talk.say("a red apple", chain=got_kit.APPLE) for _ in range(3)]
    assert talk.undo() is entries[1]
    assert talk.undo() is entries[0]
    assert talk.undo() is None
    assert talk.image is None
    with pytest.raises(ConversationError, match="something to undo"):
        talk.undo()
    assert [talk.redo() for _ in range(3)] == entries
    with pytest.raises(ConversationError, match="something to redo"):
        talk.redo()


def test_an_image_is_drawn_again_without_being_kept(long_talk):
    before = described(long_talk)
    for entry in long_talk.entries:
        if entry.given:  # the chains of a random model are no words
            assert np.array_equal(np.asarray(long_talk.redraw(entry.number)), pixels(entry))
    other = long_talk.redraw(0, semantic=False, spatial=False)
    assert not np.array_equal(np.asarray(other), pixels(long_talk.entries[0]))
    assert described(long_talk) == before
    long_talk.open(other)
    with pytest.raises(ConversationError, match="this one was opened"):
        long_talk.redraw(len(before[0]))
    with pytest.raises(ConversationError, match="but got 9"):
        long_talk.redraw(9)


def test_callbacks_are_called_for_a_while(talk, tmp_path):
    plans = []
    with talk.telling(callback_on_chains=plans.append):
        talk.say("a red apple", chain=got_kit.APPLE)
    talk.say("a blue dog", chain=got_kit.APPLE)
    assert [str(chain) for (chain,) in plans] == [got_kit.APPLE]
    assert Conversation.load(talk.save(tmp_path / "talk")).options == QUICK


def test_a_request_after_undo_starts_from_there_and_loses_nothing(talk):
    talk.say("a red apple", chain=got_kit.APPLE)
    talk.say("a blue dog", chain=got_kit.APPLE)
    talk.undo()
    other = talk.say("dogs", chain=got_kit.APPLE)
    assert (other.number, other.source) == (2, 0)
    assert len(talk.entries) == 3
    with pytest.raises(ConversationError, match="nothing was undone"):
        talk.redo()


def test_a_changed_plan_repeats_the_request_with_the_same_noise_and_source(talk):
    talk.say("a red apple", chain=got_kit.APPLE)
    edited = talk.say("a blue dog", chain=got_kit.BOTH, seed=5, spatial=False)
    moved = talk.revise(talk.chain.move(0, (0, 0, 999, 999)))
    assert (moved.instruction, moved.source, moved.seed) == (edited.instruction, edited.source, 5)
    assert moved.options == edited.options == {**QUICK, "spatial": False}
    same = talk.revise(edited.chain)
    assert (pixels(same) == pixels(edited)).all()
    assert talk.undo() is moved


def test_a_plan_of_other_objects_is_drawn_with_a_caption_of_its_own(talk):
    talk.say("a red apple", chain=got_kit.APPLE)
    assert talk.revise(talk.chain.move(0, (0, 0, 999, 999))).instruction == "a red apple"
    replaced = talk.revise(talk.chain.replace(0, "a blue dog").add("dogs", (0, 0, 300, 300)))
    assert replaced.instruction == "a photo of a blue dog and dogs"
    alone = got_kit.pipeline()(replaced.instruction, chain=replaced.chain, generator=got_kit.generator(42), **QUICK)
    assert np.abs(pixels(replaced) - np.asarray(alone.images[0], int)).max() <= 1
    edited = talk.say("a computer mouse", chain=got_kit.APPLE)
    assert talk.revise(talk.chain.replace(0, "a blue dog")).instruction == edited.instruction
    assert talk.revise("").instruction == edited.instruction


def test_a_plan_keeps_the_names_that_it_was_given(talk):
    """Read again from its text, the first would be "a computer mouse"; of it the prompt must not be made."""
    talk.say("a red apple", chain=got_kit.APPLE)
    replaced = talk.revise(talk.chain.replace(0, "a blue dog with a computer mouse"))
    assert replaced.instruction == "a photo of a blue dog with a computer mouse"


def test_names_last_from_plan_to_plan_and_through_a_folder(talk, tmp_path):
    plan = Chain.parse(got_kit.APPLE).replace(0, "a blue dog with a computer mouse")
    talk.say("dogs on a mat", chain=plan)
    assert talk.chain == plan
    assert talk.revise(plan.move(0, (0, 0, 500, 500))).instruction == "dogs on a mat"
    assert talk.revise(str(plan.move(0, (0, 0, 400, 500)))).instruction == "dogs on a mat"
    again = Conversation.load(talk.save(tmp_path / "talk"), talk.pipeline)
    added = again.revise(again.chain.add("a red dog", (500, 0, 900, 400)))
    assert again.entries[0].names == ("a blue dog with a computer mouse",)
    # The last plan was given as text, which tells of the name only its end.
    assert added.instruction == "a photo of a computer mouse and a red dog"
    again.undo()
    again.undo()
    assert again.revise(again.chain.add("a red dog", (500, 0, 900, 400))).instruction == (
        "a photo of a blue dog with a computer mouse and a red dog"
    )


def test_numbers_of_numpy_are_kept_as_numbers(tmp_path):
    talk = Conversation(got_kit.pipeline(), num_inference_steps=np.int64(1), spatial_scale=np.float32(2))
    again = Conversation.load(talk.save(tmp_path / "talk"))
    assert again.options == {"num_inference_steps": 1, "spatial_scale": 2.0}


def test_a_image_that_an_interrupted_save_left_gives_way(talk, tmp_path):
    folder = tmp_path / "talk"
    talk.say("a red apple", chain=got_kit.APPLE)
    talk.save(folder)
    Image.new("RGB", (48, 32), "green").save(folder / "0001.png")  # of an entry that the state does not have
    again = Conversation.load(folder, talk.pipeline)
    entry = again.say("a blue dog", chain=got_kit.BOTH)
    again.save(folder)
    assert (pixels(Conversation.load(folder).entries[1]) == pixels(entry)).all()


def test_an_opened_image_is_edited_and_has_no_plan_to_change(talk):
    source = Image.new("LA", (60, 40), (90, 255))
    opened = talk.open(source)
    assert (opened.kind, opened.image.mode) == ("opened", "RGB")
    with pytest.raises(ConversationError, match="was drawn"):
        talk.revise(got_kit.APPLE)
    assert talk.say("a red apple", chain=got_kit.APPLE).image.size == (60, 40)


def test_an_opened_image_is_kept_as_it_was(talk):
    source = Image.new("RGB", (4, 4), "red")
    opened = talk.open(source)
    source.paste("blue", (0, 0, 4, 4))
    assert opened.image.getpixel((0, 0)) == (255, 0, 0)


def test_a_refused_request_leaves_everything_as_it_was(long_talk):
    before = described(long_talk)
    for request in (lambda: long_talk.say(""), lambda: long_talk.say("dogs", spatial_scale=float("nan"))):
        with pytest.raises(ValueError, match="Expected"):
            request()
    with pytest.raises(ImageError):
        long_talk.open(Image.new("F", (2, 2)))
    assert described(long_talk) == before


def test_what_is_saved_comes_back_whole_and_goes_on_alike(long_talk, tmp_path):
    folder = long_talk.save(tmp_path / "talk")
    again = Conversation.load(folder, got_kit.pipeline())
    assert described(again) == described(long_talk)
    assert again.redo().number == long_talk.redo().number == 3
    assert again.undo().number == long_talk.undo().number
    assert again.undo().number == long_talk.undo().number
    one, other = (one.say("a red apple", chain=got_kit.APPLE) for one in (again, long_talk))
    assert (pixels(one) == pixels(other)).all()
    again.save(folder)
    assert described(Conversation.load(folder)) == described(again)
    assert not list(folder.glob("*.part"))


def test_the_file_of_entries_can_be_read_by_anything(long_talk, tmp_path):
    lines = (long_talk.save(tmp_path / "talk") / ENTRIES_FILE).read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["instruction"] for record in records] == ["a red apple", "a blue dog", "dogs", "dogs"]
    assert [record["image"] for record in records] == ["0000.png", "0001.png", "0002.png", "0003.png"]


def test_an_empty_conversation_can_be_saved(talk, tmp_path):
    assert described(Conversation.load(talk.save(tmp_path / "new"))) == described(talk)


def test_a_conversation_without_a_pipeline_can_only_be_looked_at(long_talk, tmp_path):
    again = Conversation.load(long_talk.save(tmp_path / "talk"))
    assert again.image is not None
    with pytest.raises(ConversationError, match="without"):
        again.say("a red apple")


def test_a_folder_of_something_else_is_left_alone(long_talk, tmp_path):
    talk = Conversation(got_kit.pipeline(), **QUICK)
    (tmp_path / "photo.png").write_bytes(b"mine")
    with pytest.raises(ConversationError, match="new or empty folder"):
        talk.save(tmp_path)
    long_talk.save(tmp_path / "talk")
    with pytest.raises(ConversationError, match="new or empty folder"):
        talk.save(tmp_path / "talk")
    with pytest.raises(ConversationError, match="new or empty folder"):
        talk.save(tmp_path / "photo.png")
    assert (tmp_path / "photo.png").read_bytes() == b"mine"


@pytest.mark.parametrize("option", [{"callback_on_step_end": print}, {"generator": 3}, {"output_type": "np"}])
def test_options_that_cannot_be_kept_are_refused(option):
    with pytest.raises(ConversationError, match="Expected"):
        Conversation(got_kit.pipeline(), **option)


def cut(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-40])


def change(name, old, new):
    return lambda folder: (folder / name).write_text((folder / name).read_text().replace(old, new))


def as_older(folder):
    """As it was before its records had hashes."""
    for name in (ENTRIES_FILE, STATE_FILE):
        text = (folder / name).read_text()
        (folder / name).write_text(re.sub(r',\s*"sha256": "\w+"', "", text))
    return folder


def older(damage):
    return lambda folder: damage(as_older(folder))


def test_a_folder_of_an_older_version_is_read_and_has_hashes_once_it_is_saved(long_talk, tmp_path):
    folder = as_older(long_talk.save(tmp_path / "talk"))
    talk = Conversation.load(folder)
    assert [entry.chain for entry in talk.entries] == [entry.chain for entry in long_talk.entries]
    talk.undo()
    talk.save(folder)
    assert (folder / ENTRIES_FILE).read_text().count('"sha256"') == len(talk.entries)
    assert '"sha256"' in (folder / STATE_FILE).read_text()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / STATE_FILE).unlink(), "Cannot read"),
        (lambda folder: (folder / ENTRIES_FILE).unlink(), "Cannot read"),
        (lambda folder: (folder / "0002.png").unlink(), "line 3.*No such file"),
        (cut("0001.png"), "line 2.*damaged"),
        (cut(ENTRIES_FILE), "line 4 is not valid JSON"),
        (cut(STATE_FILE), "is not valid JSON"),
        (lambda folder: (folder / ENTRIES_FILE).write_text(""), "Expected 4 entries"),
        (lambda folder: (folder / STATE_FILE).write_text("[]"), "JSON object"),
        (change(STATE_FILE, '"seed": 4', '"seed": 5'), "conversation.json is damaged: it is not as it was written"),
        (change(ENTRIES_FILE, '"seed": 4', '"seed": 5'), r"entries.jsonl, line \d is damaged: it is not as it was"),
        (change(ENTRIES_FILE, '"sha256"', '"sha257"'), "line 1 is damaged: it has no hash"),
        (older(change(STATE_FILE, '"current": 2', '"current": 9')), "no saved conversation"),
        (older(change(ENTRIES_FILE, '"source": 0', '"source": 77')), "does not belong here"),
        (older(change(ENTRIES_FILE, '"seed"', '"sead"')), "is damaged"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(saved, tmp_path, damage, message):
    folder = shutil.copytree(saved, tmp_path / "talk")
    damage(folder)
    with pytest.raises(ConversationError, match=message) as raised:
        Conversation.load(folder)
    assert "\n" not in str(raised.value)


def test_an_entry_knows_whether_its_plan_was_given_and_its_turn(talk, tmp_path):
    talk.say("a red apple", chain=got_kit.APPLE)
    talk.say("dogs")
    assert [(entry.given, entry.turn) for entry in talk.entries] == [(True, 0), (False, 0)]
    talk.save(tmp_path / "talk")
    again = Conversation.load(tmp_path / "talk")
    assert [(entry.given, entry.turn) for entry in again.entries] == [(True, 0), (False, 0)]


def test_a_sampler_is_of_one_request_alone(talk):
    own = talk.pipeline.scheduler
    usual = talk.draw("a red apple", chain=got_kit.APPLE, num_inference_steps=3)
    other = talk.draw("a red apple", chain=got_kit.APPLE, num_inference_steps=3, scheduler="ddpm")
    assert talk.pipeline.scheduler is own
    assert (pixels(usual) != pixels(other)).any()
    assert talk.revise(got_kit.APPLE).options["scheduler"] == "ddpm"
    with pytest.raises(ValueError, match="Expected a scheduler"):
        talk.draw("a red apple", scheduler="best")
    assert talk.pipeline.scheduler is own


def test_an_image_drawn_elsewhere_is_taken_in_and_its_plan_changed(talk):
    elsewhere = Conversation(got_kit.pipeline()).draw("a red apple", chain=got_kit.APPLE, seed=9, **QUICK)
    entry = talk.adopt(elsewhere.image, "a red apple", got_kit.APPLE, seed=9, num_inference_steps=1)
    assert (entry.kind, entry.source, entry.seed) == ("drawn", None, 9)
    again = talk.revise(talk.chain)
    assert np.abs(pixels(again) - pixels(elsewhere)).max() <= 1
    assert talk.adopt(elsewhere.image, "dogs", got_kit.APPLE, seed=9).kind == "edited"


def test_any_entry_can_be_looked_at_and_left_again(long_talk):
    shown = long_talk.entry
    assert long_talk.go_to(0).number == 0
    assert (long_talk.can_undo, long_talk.can_redo) == (True, False)
    assert long_talk.undo() is shown
    with pytest.raises(ConversationError, match="from 0 to 3 but got 4"):
        long_talk.go_to(4)


def test_images_of_a_lazy_conversation_are_read_from_their_files(long_talk, tmp_path):
    folder = long_talk.save(tmp_path / "talk")
    lazy = Conversation.load(folder, long_talk.pipeline, lazy=True)
    assert all(isinstance(entry.pixels, Path) for entry in lazy.entries)
    assert described(lazy) == described(long_talk)
    lazy.say("dogs", chain=got_kit.APPLE)
    lazy.save(folder)
    assert described(Conversation.load(folder)) == described(lazy)
    (folder / "0000.png").unlink()
    with pytest.raises(ImageError, match="Cannot read"):
        _ = lazy.entries[0].image
