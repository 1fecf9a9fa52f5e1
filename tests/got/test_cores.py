"""Passes that are shared out over the cores of a CPU."""

import threading

import got_kit
import pytest
import torch
from torch import nn

from got.util.cores import can_split, on_cores, row_parts


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@torch.inference_mode()
def test_each_part_has_one_thread_and_results_come_in_order():
    def work(number):
        barrier.wait()  # all at the same time
        return number, torch.get_num_threads(), torch.is_inference_mode_enabled(), threading.get_ident()

    for _ in range(2):
        barrier = threading.Barrier(2, timeout=60)
        found = on_cores(work, [5, 3])
        assert [row[:3] for row in found] == [(5, 1, True), (3, 1, True)]
        assert len({row[3] for row in found} | {threading.get_ident()}) == 3
        assert torch.get_num_threads() == 2
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [2]
    assert on_cores(lambda part: torch.get_num_threads(), [1]) == [2]
    assert on_cores(lambda part: torch.get_num_threads(), [1, 2], split=False) == [2, 2]


@torch.inference_mode()
def test_what_one_part_raises_is_raised():
    with pytest.raises(ZeroDivisionError):
        on_cores(lambda number: 1 / number, [1, 0, 2])


@torch.inference_mode()
def test_batches_are_cut_where_every_thread_has_enough():
    network = nn.Linear(2, 2)
    assert row_parts(network, 15) == [slice(0, 15)]
    assert row_parts(network, 17) == [slice(0, 8), slice(8, 17)]
    torch.set_num_threads(1)
    assert row_parts(network, 64) == [slice(0, 64)]


def test_networks_that_cannot_be_shared_get_whole_batches():
    assert not can_split(nn.Linear(2, 2)), "gradients"
    with torch.no_grad():
        assert can_split(nn.Linear(2, 2))
        hooked, compiled, away = nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2), nn.Linear(2, 2, device="meta")
        hooked[0].register_forward_hook(lambda *_: None)
        compiled.compile(backend="eager")
        assert not any(map(can_split, (hooked, compiled, away)))
        with torch.autocast("cpu", torch.bfloat16):
            assert not can_split(nn.Linear(2, 2))


def test_images_are_the_same_on_one_thread_and_on_two():
    pipe = got_kit.make_pipeline()

    def drawn():
        generators = [got_kit.generator(row) for row in range(9)]
        options = {"num_inference_steps": 2, "output_type": "np", "reference_scale": 1.0, "chain": [got_kit.APPLE] * 9}
        return torch.from_numpy(pipe(["dogs"] * 9, generator=generators, **options).images)

    shared = drawn()
    torch.set_num_threads(1)
    torch.testing.assert_close(drawn(), shared, atol=1e-5, rtol=0)
