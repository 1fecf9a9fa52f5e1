"""The queue that workers are served from: nothing is lost or doubled, and results come in order, whoever dies."""

import random

import hypothesis
from hypothesis import strategies as st

from got.util.workers.queue import Queue

BATCHES = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), max_size=12)


@hypothesis.given(BATCHES, st.integers(1, 6), st.integers(0, 2**32), st.floats(0, 0.9))
def test_every_item_comes_out_once_and_in_order(batches, ahead, seed, mortality):
    rng, out, held = random.Random(seed), [], []
    queue = Queue(batches, ahead, lost=lambda item, why: ("lost", item))
    while not queue.is_over:
        task = queue.take()
        if task is not None:
            held.append(task)
        if held and (task is None or rng.random() < 0.5):
            one = held.pop(rng.randrange(len(held)))
            end = rng.random()
            if end < mortality / 2:
                queue.died(one, "killed")
            elif end < mortality:
                queue.again(one)
            else:
                queue.done(one, [("done", item) for item in one.items])
        out += queue.finished()
    assert [[item for _, item in results] for results in out] == batches
    assert queue.take() is None


@hypothesis.given(BATCHES, st.integers(1, 6))
def test_no_more_batches_are_out_than_may_wait(batches, ahead):
    queue = Queue(batches, ahead, lost=lambda item, why: item)
    taken = []
    while (task := queue.take()) is not None:
        taken.append(task)
    assert len(taken) == min(ahead, len(batches))
    for task in reversed(taken[1:]):
        queue.done(task, list(task.items))
    assert list(queue.finished()) == []  # the first one is not there


def test_only_the_item_that_kills_is_given_up():
    queue = Queue([[1, 2, 3], [4]], 9, lost=lambda item, why: f"{item}: {why}")
    deaths = 0
    while (task := queue.take()) is not None:
        if 2 in task.items:
            deaths += 1
            queue.died(task, "killed")
        else:
            queue.done(task, [str(item) for item in task.items])
    assert list(queue.finished()) == [["1", "2: killed", "3"], ["4"]]
    assert deaths == 5  # three of the batch, two of the item
