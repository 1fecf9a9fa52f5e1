"""What becomes of arguments: the world they speak of, what is built when, and whose weights name a run."""

import dataclasses
import subprocess
import sys

import pytest
from PIL import Image
from runner_kit import small_environment

from evals.core.backends import PHOTOGRAPHS
from evals.core.options import CASES, option
from evals.core.records import UserError
from evals.embedders.registry import ICON_EMBEDDER, PHOTO_EMBEDDER
from evals.geneval import suite
from evals.harness import cli


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(suite.Options):
    data: str | None = option(None, "a published set", stage=CASES)


class OfPhotographs(suite.GenEval):
    """As the editing suites are: --data names a published set, which is of photographs."""

    options = Options

    def detects(self, options):
        return options.data is None

    def shows(self, options):
        return options.data and PHOTOGRAPHS


def plan_of(*words):
    return cli.make_plan(OfPhotographs(), ["--model", "oracle", "--limit", "1", "--device", "cpu", *map(str, words)])


# --------------------------------------------------------------------------------------------------------------- worlds
def test_a_published_set_is_measured_as_photographs_whatever_the_detector():
    plan = plan_of("--data", "owner/set")
    assert plan.settings.embedder == PHOTO_EMBEDDER
    assert "detector" not in plan.identity["observe"]
    assert plan.identity["observe"]["weights_sha256"] == {}
    assert plan.tools.oracle_render is None
    icons = plan_of()
    assert icons.settings.embedder == ICON_EMBEDDER
    assert icons.identity["observe"]["detector"] == "icon"
    assert {name.partition("/")[0] for name in icons.identity["observe"]["weights_sha256"]} == {"detector", "embedder"}


def test_the_detector_of_a_published_set_is_built_when_it_is_asked(tmp_path):
    missing = f"icon:{tmp_path}/nowhere.safetensors"
    with pytest.raises(UserError):
        _ = plan_of("--detector", missing).tools
    tools = plan_of("--data", "owner/set", "--detector", missing).tools
    with pytest.raises(UserError):
        _ = tools.detector
    tools = plan_of("--data", "owner/set", "--detector", "icon").tools
    assert 0 < tools.detector.min_score < 1
    assert len(tools.detector.detect([Image.new("RGB", (64, 64))])) == 1


# -------------------------------------------------------------------------------------------------------------- encoder
@pytest.mark.parametrize("squash", ["", "+squash"])
def test_an_encoders_weights_are_found_where_it_finds_them(tmp_path, squash):
    (tmp_path / "model").mkdir()
    weights = tmp_path / "model" / "open_clip_model.safetensors"
    weights.write_bytes(b"abc")
    (tmp_path / "model" / "open_clip_config.json").write_text("{}")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    for spec in (f"openclip:ViT-B-32/{weights}{squash}", f"openclip:{weights.parent}{squash}"):
        found = plan_of("--data", "owner/set", "--embedder", spec).identity["observe"]["weights_sha256"]
        assert found == {"embedder/open_clip_model.safetensors": digest}
    icon = plan_of("--embedder", f"icon{squash}").identity["observe"]["weights_sha256"]
    assert "embedder/icon_clip.safetensors" in icon
    published = plan_of("--data", "owner/set", "--embedder", f"openclip:ViT-B-32/openai{squash}")
    assert published.identity["observe"]["weights_sha256"] == {}


# -------------------------------------------------------------------------------------------------------------- devices
def test_torch_is_loaded_by_whoever_needs_it_with_the_threads_that_were_decided():
    code = (
        "import sys; from got.util.cli import resolve_device, set_threads; set_threads()\n"
        "assert (resolve_device('cpu'), 'torch' in sys.modules) == ('cpu', False)\n"
        "import torch; assert torch.get_num_threads() == 1"
    )
    subprocess.run([sys.executable, "-c", code], env=small_environment(), check=True)
