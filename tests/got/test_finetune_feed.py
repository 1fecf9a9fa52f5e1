"""Recipes, the order of samples, batches, and the folder of a training."""

import dataclasses
import itertools
import json

import finetune_kit as kit
import got_kit
import pytest
import torch

from got.data.records import DataError, Step
from got.finetune import folder
from got.finetune.feed import BLOCK, Feed, Mixture, Share, Unusable, quotas
from got.finetune.recipes import RECIPES, Source, changed
from got.util.files import append_lines, read_lines, replacing_folder

PIPELINE = got_kit.pipeline


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    return kit.dataset(root / "drawings", drawings=7), kit.dataset(root / "edits", edits=3, conversations=1)


def mixture(places, weights=(0.75, 0.25), seed=0):
    sources = tuple(Source(place=place, weight=weight) for place, weight in zip(places, weights, strict=True))
    return Mixture(sources=sources, seed=seed)


def taken(stream, count):
    return [(number, example.id) for number, example in itertools.islice(stream, count)]


def test_the_papers_phases_have_the_papers_numbers():
    first, second = RECIPES["got-6b-pretrain"], RECIPES["got-6b-finetune"]
    assert (first.steps, first.warmup_steps, first.learning_rate, first.batch) == (60_000, 500, 1e-4, 128)
    assert (second.steps, second.warmup_steps, second.learning_rate, second.batch) == (10_000, 200, 5e-5, 128)
    for phase in (first, second):
        assert (phase.beta1, phase.beta2, phase.epsilon, phase.weight_decay) == (0.9, 0.98, 1e-6, 0.05)
        assert (phase.text_weight, phase.noise_weight, phase.noise_offset, phase.lora_rank) == (1.0, 1.0, 0.1, 32)
        reached = 1 - phase.steps**-0.75
        assert phase.ema_decay <= reached < 1, "of a decay that is never reached no reader knows what was done"
    assert all(recipe.problems() == [] for recipe in RECIPES.values())
    assert changed(first, ["drop_layout=0.02"]).drops[0] == ((True, False, True), 0.02)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("steps=many", "Expected steps to be a whole number but got 'many'"),
        ("learning_rate=nan", "expected learning_rate to be a finite number of at least 0 but got nan"),
        ("precision=fp8", "expected precision to be no or bf16 but got 'fp8'"),
        ("gradient_checkpointing=1", "Expected gradient_checkpointing to be true or false but got '1'"),
        ("drops=1", "Expected one of steps"),
        ("drop_all=0.95", "to be at most 1 in all but got 1.05"),
        ("ema_decay=1", "expected ema_decay to be below 1 but got 1.0"),
        ("steps", "Expected one of steps"),
    ],
)
def test_recipes_refuse_what_they_cannot_be(assignment, message):
    with pytest.raises(ValueError, match=message):
        changed(RECIPES["mini"], [assignment])


def test_data_sets_are_drawn_from_by_weight(places):
    order = mixture(places).order(3)
    assert [(order == which).sum() for which in (0, 1)] == [750, 250]
    assert (order != mixture(places).order(4)).any()
    names = [example_id[0] for _, example_id in taken(mixture(places).examples(), 400)]
    assert 0.6 < names.count("t") / len(names) < 0.9


def test_the_stream_goes_on_anywhere_as_it_would_have(places):
    mixed = mixture(places)
    whole = taken(mixed.examples(), BLOCK + 60)
    assert [number for number, _ in whole] == list(range(BLOCK + 60))
    for start in (0, 1, 17, BLOCK - 1, BLOCK, BLOCK + 31):
        assert taken(mixed.examples(start), 20) == whole[start : start + 20]


def test_every_epoch_has_every_example_once_in_another_order(places):
    only = Mixture(sources=(Source(place=places[0], weight=1.0),), seed=3)
    names = [name for _, name in taken(only.examples(), 21)]
    epochs = [names[:7], names[7:14], names[14:]]
    assert all(sorted(epoch) == sorted(names[:7]) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert len(set(names)) == 7


def test_weights_that_are_never_drawn_are_refused():
    with pytest.raises(ValueError, match=r"at least 0\.001 of the sum"):
        quotas([1, 1e-6])
    for text in ("data:0", "data:-1", ":1", "data:nan"):
        with pytest.raises(ValueError, match="Expected PLACE or PLACE:WEIGHT"):
            Source.parse(text)
    assert Source.parse("C:/data") == Source(place="C:/data", weight=1.0)


def feed(places, first_step=0, recipe=kit.RECIPE, **share):
    parts = {"batch": 8, "micro": 2, "rank": 0, "processes": 2} | share
    return Feed(mixture(places), kit.collator(PIPELINE(), recipe), Share(**parts), first_step)


def samples(batches, count):
    return [sorted({key[0] for key in batch.keys}) for batch in itertools.islice(iter(batches), count)]


def test_processes_share_an_update_and_nothing_is_seen_twice(places):
    first, second = (samples(feed(places, rank=rank), 4) for rank in (0, 1))
    assert first == [[0, 1], [4, 5], [8, 9], [12, 13]]
    assert second == [[2, 3], [6, 7], [10, 11], [14, 15]]
    assert samples(feed(places, first_step=1, rank=1), 2) == [[10, 11], [14, 15]]
    assert samples(feed(places, micro=8, processes=1), 1) == [list(range(8))]


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="Expected a batch that 2 processes with 3 examples each divide, but got 8"):
        _ = Share(batch=8, micro=3, rank=0, processes=2).passes


@pytest.mark.slow
def test_worker_processes_give_the_same_batches_in_the_same_order(places):
    straight = list(itertools.islice(feed(places).loader(), 5))
    ahead = list(itertools.islice(feed(places).loader(workers=2), 5))
    for one, other in zip(straight, ahead, strict=True):
        assert one.keys == other.keys
        assert torch.equal(one.sequences.input_ids, other.sequences.input_ids)


def spoiled(example, **changes):
    return dataclasses.replace(example, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": (Step(chain="a dog", target=b"no image"),)}, "t0: Expected an image but target is none"),
        ({"steps": (Step(chain="a <|im_gen_0001|> dog", target=b""),)}, r"t0: Expected a chain of words and boxes"),
        ({"steps": (Step(chain=" ", target=b""),)}, "t0: a prompt or a chain is missing"),
        ({"prompt": "a <|im_start|> dog"}, "t0: Expected a prompt in plain words"),
        ({"prompt": "a dog " * 300}, "t0: expected at most 400 tokens but got"),
    ],
)
def test_unusable_examples_say_why(changes, message):
    with pytest.raises(Unusable, match=message):
        kit.collator(PIPELINE()).prepare(0, spoiled(kit.example(0, "text-to-image"), **changes))


def test_an_unusable_example_is_left_out_and_an_empty_batch_gets_the_next_one(tmp_path):
    good = kit.examples(drawings=4)
    bad = [spoiled(good[0], id=f"bad{i}", prompt="a dog " * 300) for i in range(2)]
    place = tmp_path / "set"
    with kit.Writer(place) as writer:
        for one in (*good, *bad):
            writer.add(one)
    one_set = Mixture(sources=(Source(place=str(place), weight=1.0),), seed=0)
    names = [name for _, name in taken(one_set.examples(), 24)]
    alone = Share(batch=1, micro=1, rank=0, processes=1)
    found = list(itertools.islice(iter(Feed(one_set, kit.collator(PIPELINE()), alone)), 18))
    assert sum(len(batch.skipped) for batch in found) >= 4
    assert all("expected at most 400 tokens" in why for batch in found for why in batch.skipped)
    assert all(len(batch.keys) == 1 for batch in found)
    usable = [number for number, name in enumerate(names) if name.startswith("t")]
    assert {key for batch in found for key, _ in batch.keys} <= set(usable)


def test_an_unusable_example_is_on_one_list_whoever_else_met_it(tmp_path):
    """The first two samples are bad: one process lacks a batch, looks on, and meets the other's."""
    good = kit.examples(drawings=6)
    with kit.Writer(tmp_path) as writer:
        for one in good:
            writer.add(one)
    one_set = Mixture(sources=(Source(place=str(tmp_path), weight=1.0),), seed=0)
    bad = [name for _, name in taken(one_set.examples(), 2)]
    real = kit.collator(PIPELINE())

    class Strict:
        batch = staticmethod(real.batch)

        @staticmethod
        def prepare(sample, example):
            if example.id in bad:
                raise Unusable(example.id)
            return real.prepare(sample, example)

    shares = [Share(batch=2, micro=1, rank=rank, processes=2) for rank in (0, 1)]
    noted = [next(iter(Feed(one_set, Strict, share))).skipped for share in shares]
    assert sorted(itertools.chain(*noted)) == sorted(bad)


def test_a_set_of_nothing_but_bad_examples_ends_the_training(tmp_path):
    with kit.Writer(tmp_path) as writer:
        writer.add(spoiled(kit.example(0, "text-to-image"), prompt="a dog " * 300))
    one_set = Mixture(sources=(Source(place=str(tmp_path), weight=1.0),), seed=0)
    with pytest.raises(DataError, match="1000 examples in a row cannot be used; the last: t0"):
        next(iter(Feed(one_set, kit.collator(PIPELINE()), Share(batch=1, micro=1, rank=0, processes=1))))


def test_of_a_long_conversation_some_images_are_drawn_but_all_chains_read():
    found = kit.batch(PIPELINE(), kit.examples(conversations=1) * 20)
    assert found.sequences.image_rows.tolist() == [row for row in range(20) for _ in range(3)]
    steps = [tuple(step for sample, step in found.keys if sample == number) for number in range(20)]
    assert set(steps) == {(0, 1), (0, 2), (1, 2)}
    assert found.drawn.tolist() == [3 * sample + step for sample, step in found.keys]
    assert found.row_tasks.tolist() == [2] * 20


def test_tasks_of_a_mixed_batch():
    found = kit.batch(PIPELINE(), kit.examples(drawings=1, edits=1, conversations=1))
    assert found.row_tasks.tolist() == [0, 1, 2]
    assert found.blank is None
    drawings = kit.batch(PIPELINE(), kit.examples(drawings=1))
    assert drawings.blank[0].shape == (64, 384)
    assert drawings.blank[1].tolist() == [[1, 8, 8]]


def test_checkpoints_are_renamed_when_whole_and_the_last_ones_stay(tmp_path):
    for step in (5, 10, 15):
        (tmp_path / folder.UNFINISHED).mkdir()
        assert folder.latest(tmp_path) is None or folder.latest(tmp_path).name != f"checkpoint-{step:08d}"
        folder.finish(tmp_path, {"step": step}, {"last_epoch": step}, keep=2)
    (tmp_path / folder.UNFINISHED).mkdir()  # killed while writing
    assert [path.name for path in sorted(tmp_path.glob("checkpoint-*"))] == [
        "checkpoint-00000010",
        "checkpoint-00000015",
    ]
    assert folder.counts(folder.latest(tmp_path)) == ({"step": 15}, {"last_epoch": 15})


def test_logs_are_cut_where_the_training_goes_on(tmp_path):
    for step in (1, 2, 3):
        append_lines(tmp_path / folder.LOG, [{"step": step}])
    with (tmp_path / folder.LOG).open("a") as file:
        file.write('{"step": 4, "cut o')
    folder.cut_logs(tmp_path, 2)
    assert read_lines(tmp_path / folder.LOG)[0] == [{"step": 1}, {"step": 2}]


def test_the_log_is_kept_as_a_table_too(tmp_path):
    append_lines(tmp_path / folder.LOG, [{"step": 1, "loss": 0.5}])
    append_lines(tmp_path / folder.LOG, [{"step": 2, "loss": 0.25, "loss/edit": 1.0}])
    folder.write_table(tmp_path)
    assert (tmp_path / folder.TABLE).read_text().splitlines() == ["step,loss,loss/edit", "1,0.5,", "2,0.25,1.0"]


def test_a_folder_belongs_to_one_training(tmp_path):
    identity = {"recipe": {"steps": 1, "batch": 2}, "model": "mini", "seed": 0}
    folder.claim(tmp_path, identity)
    folder.claim(tmp_path, json.loads(json.dumps(identity)))
    with pytest.raises(ValueError, match=r"different: recipe\.batch \(there 2, now 3\), seed \(there 0, now 1\)"):
        folder.claim(tmp_path, {**identity, "recipe": {"steps": 1, "batch": 3}, "seed": 1})
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").touch()
    with pytest.raises(ValueError, match="Expected a new or empty folder"):
        folder.claim(other, identity)


def test_a_model_folder_is_replaced_in_one_move(tmp_path):
    target = tmp_path / "model"
    for text in ("first", "second"):
        with replacing_folder(target) as part:
            (part / "file").write_text(text)
    assert (target / "file").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
