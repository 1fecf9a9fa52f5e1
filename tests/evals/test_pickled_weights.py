"""Published checkpoints are pickles with more than weights in them; only the weights are read."""

import numpy as np
import pytest
import torch

from evals.core import weights


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return type(self.path).touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.usefixtures("mmdet")
def test_a_checkpoint_is_read_and_what_else_is_pickled_in_it_is_not_run(tmp_path, zipped):
    from mmengine.logging import HistoryBuffer

    state, path = torch.nn.Linear(2, 3).state_dict(), tmp_path / "published.pth"
    records = {"log": {"loss": HistoryBuffer([1.0], [1])}, "time": np.float64(3), "hook": Touch(tmp_path / "ran")}
    torch.save({"state_dict": state, "meta": records}, path, _use_new_zipfile_serialization=zipped)
    read = weights.read_checkpoint(path)
    assert all(torch.equal(weight, read[name]) for name, weight in state.items())
    assert not (tmp_path / "ran").exists()
