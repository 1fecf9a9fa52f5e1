"""Where the pipeline runs: weights kept elsewhere, compiled networks, a frugal autoencoder.

None of it needs a GPU; where there is one, the last part runs there."""

import sys

import got_kit
import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from diffusers import AutoencoderKL, DDIMScheduler
from diffusers.models.attention_processor import AttnProcessor2_0
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode

from got import __main__ as command
from got import checkpoint
from got.model import networks as models
from got.model.outputs import Sampling
from got.model.sampling import Steps
from got.model.ssgm import Switches
from got.pipeline import GoTPipeline
from got.plan.chain import Chain
from got.util import precision

CHAINS = [got_kit.BOTH, got_kit.APPLE]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def pipe():
    return got_kit.make_pipeline()


def draw(pipe, **options):
    prompts = ["a red apple and a blue dog", "a red apple"]
    generators = [got_kit.generator(seed) for seed in (5, 6)]
    options = {"num_inference_steps": 2, "output_type": "np", "chain": CHAINS, **options}
    return pipe(prompts, generator=generators, **options).images


def keep_elsewhere(pipe):
    for name in pipe.model_cpu_offload_seq.split("->"):
        cpu_offload(getattr(pipe, name), torch.device("cpu"))
    assert {parameter.device.type for parameter in pipe.unet.parameters()} == {"meta"}


def test_networks_whose_weights_wait_elsewhere_draw_the_same(pipe):
    """What sequential offload does on a GPU: a network has weights only inside its own forward call."""
    expected = draw(pipe)
    keep_elsewhere(pipe)
    np.testing.assert_allclose(draw(pipe), expected, atol=1e-5)


def test_a_chain_is_written_with_weights_that_wait_elsewhere(pipe):
    expected = pipe.think("a red apple", max_new_tokens=5)
    keep_elsewhere(pipe)
    assert pipe.think("a red apple", max_new_tokens=5) == expected


def test_the_order_of_offload_names_every_network(pipe):
    networks = {name for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    assert set(pipe.model_cpu_offload_seq.split("->")) == networks


def test_a_saved_pipeline_is_shared_out_over_devices_as_any_of_diffusers(pipe, tmp_path):
    checkpoint.save_fp16(pipe, tmp_path / "saved")
    shared = GoTPipeline.from_pretrained(tmp_path / "saved", device_map="balanced", dtype=torch.float32)
    shared.set_progress_bar_config(disable=True)
    atol = 1e-5 if DEVICE == "cpu" else 0.02
    np.testing.assert_allclose(draw(shared), draw(checkpoint.load(tmp_path / "saved")), atol=atol)


@pytest.fixture
def headers(monkeypatch, tmp_path_factory):
    """The folder of Python's headers."""
    folder = tmp_path_factory.mktemp("include")
    (folder / "Python.h").touch()
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(folder))
    monkeypatch.setattr("sys.platform", "linux")
    return folder


@pytest.fixture
def compiler(request, monkeypatch):
    """What compiling wants of a processor without it: not inductor's code is run, but the graph as it is."""
    if DEVICE == "cpu":
        request.getfixturevalue("headers")
        monkeypatch.setenv("CXX", "true")
    elif missing := precision.missing_to_compile(DEVICE):
        pytest.skip(missing)


@pytest.mark.usefixtures("compiler")
def test_flags_of_the_command_line_save_memory_and_compile(pipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint.save_fp16(pipe, "saved")

    def drawn(*flags):
        words = ["generate", "dogs", "--chain", got_kit.APPLE, "--checkpoint", "saved", "--steps", "1", "--overwrite"]
        assert command.main([*words, "--device", "cpu", *flags]) == 0
        return np.asarray(Image.open("got.png"), int)

    expected = drawn()
    called = []
    methods = [(AutoencoderKL, "enable_slicing"), (AutoencoderKL, "enable_tiling"), (torch.nn.Module, "compile")]
    for owner, name in methods:
        method = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda self, method=method, name=name: called.append(name) or method(self))
    with torch.compiler.set_stance("force_eager"):  # compiling takes a minute
        assert np.abs(drawn("--vae-slicing", "--compile") - expected).max() <= 1
    assert drawn("--vae-tiling").shape == expected.shape
    assert called == ["compile", "enable_slicing", "enable_tiling"]


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("sources", [None, pytest.param([Image.new("RGB", (32, 32))] * 2, marks=pytest.mark.slow)])
def test_a_loaded_unet_is_compiled_as_one_graph(pipe, tmp_path, sources):
    """On a processor the graph is run as it is: a break or a wrong guard shows, inductor would take minutes."""
    checkpoint.save_fp16(pipe, tmp_path / "saved")
    plain, compiled = (checkpoint.load(tmp_path / "saved", DEVICE, compiled=asked) for asked in (False, True))
    assert compiled.unet._compiled_call_impl is not None
    if DEVICE == "cpu":
        compiled.unet.compile(backend="eager", fullgraph=True)
    try:
        atol = 1e-4 if DEVICE == "cpu" else 0.02
        np.testing.assert_allclose(draw(compiled, image=sources), draw(plain, image=sources), atol=atol)
    finally:
        torch._dynamo.reset()


def test_attention_is_torchs_own(pipe):
    assert pipe.mllm.config._attn_implementation == "sdpa"
    assert {type(processor) for processor in pipe.unet.attn_processors.values()} == {AttnProcessor2_0}


@pytest.mark.parametrize("size", ["auto", "max", 1])
def test_attention_can_work_in_slices_though_a_level_has_a_single_head(pipe, size):
    expected = draw(pipe)
    pipe.enable_attention_slicing(size)
    try:
        np.testing.assert_allclose(draw(pipe), expected, atol=1e-4)
        assert AttnProcessor2_0 not in {type(processor) for processor in pipe.unet.attn_processors.values()}
    finally:
        pipe.disable_attention_slicing()
        pipe.unet.set_attn_processor(AttnProcessor2_0())


def test_the_autoencoder_can_work_in_slices(pipe):
    expected = draw(pipe)
    pipe.vae.enable_slicing()
    np.testing.assert_allclose(draw(pipe), expected, atol=1e-5)


def test_the_autoencoder_can_work_in_tiles(pipe):
    pipe.vae.enable_tiling()
    tiled = draw(pipe, height=64, width=96)
    assert tiled.shape == (2, 64, 96, 3)
    assert np.isfinite(tiled).all()


class Euler(DDIMScheduler):
    """A step without the step's number, which is a value that tensors without values cannot give."""

    def step(self, model_output, timestep, sample, return_dict=True):
        return (sample - 0.1 * model_output,)


@pytest.fixture
def gpu(request, monkeypatch):
    """A pipeline on a GPU that is not there: tensors have a device, a precision and a size, but no values.

    An operation on tensors of two devices or two precisions fails as it does on a GPU.
    """
    usual = torch.get_default_dtype()
    with FakeTensorMode(allow_non_fake_inputs=True):
        try:
            torch.empty(1, device="cuda").uniform_()
        except RuntimeError as error:  # torch 2.6 and 2.7
            pytest.skip(f"this torch asks the driver for random numbers without values: {str(error).splitlines()[0]}")
        with torch.device("cuda"):
            pipe = got_kit.make_pipeline()
            torch.set_default_dtype(request.param)
            try:
                pipe.unet = models.build_unet(got_kit.CONFIG).eval()
            finally:
                torch.set_default_dtype(usual)
        pipe.scheduler = Euler.from_config(pipe.scheduler.config)
        monkeypatch.setattr("got.model.drawing.check_scheduler", lambda *_: None)  # it looks at values
        assert {(p.device.type, p.dtype) for p in pipe.unet.parameters()} == {("cuda", request.param)}
        yield pipe


@pytest.mark.parametrize("gpu", [torch.float32, torch.bfloat16, torch.float16], indirect=True)
def test_on_a_gpu_every_tensor_is_on_it(gpu):
    """Reading chains, conditions, guided denoising of all branches, and decoding; for drawings and for edits."""
    prompts = ["a red apple and a blue dog", "a red apple"]
    drawn = gpu(prompts, chain=CHAINS, num_inference_steps=2, output_type="pt")
    assert (drawn.images.device.type, drawn.images.dtype, drawn.images.shape) == ("cuda", torch.float32, (2, 3, 32, 32))
    scales, sources = gpu.got_config.edit, [Image.new("RGB", (40, 30))] * 2
    sampling = Sampling(size_px=(32, 32), steps=Steps(count=2), scales=scales, switches=Switches(), generators=None)
    with torch.inference_mode():
        hidden = gpu.reasoner.read(prompts, CHAINS).hidden
        latents = gpu.draw(hidden, [Chain.parse(text) for text in CHAINS], sources, sampling)
    assert (latents.device.type, latents.dtype) == ("cuda", torch.float32)


@pytest.mark.parametrize("gpu", [torch.float32], indirect=True)
def test_a_tensor_that_stayed_behind_would_be_noticed(gpu):
    gpu.projector.output_projector.bias = torch.nn.Parameter(torch.zeros(got_kit.CONFIG.cross_attention_dim))
    with pytest.raises(RuntimeError, match=r"two (different )?devices"):
        gpu(["a red apple and a blue dog", "a red apple"], chain=CHAINS, num_inference_steps=1, output_type="pt")


# ------------------------------------------------------------------------------------- on a GPU, where there is one
PROMPTS = ["a photo of a red apple", "a photo of two cats"]
SHORT = {"num_inference_steps": 2, "output_type": "np"}


def draw_and_edit(pipe):
    """Chains and images of two prompts, and an edit of the first."""
    pipe.set_progress_bar_config(disable=True)
    drawn = pipe(PROMPTS, generator=[got_kit.generator(seed) for seed in (0, 1)], **SHORT)
    source = Image.fromarray((drawn.images[0] * 255).astype(np.uint8))
    edited = pipe("make the apple green", image=source, generator=got_kit.generator(2), **SHORT)
    return [*drawn.chains, *edited.chains], np.concatenate([drawn.images, edited.images])


@pytest.fixture(scope="module")
def expected():
    return draw_and_edit(checkpoint.load("mini"))


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "mean"), [("float32", 0.002), ("bfloat16", 0.01), ("float16", 0.005)])
def test_mini_draws_and_edits_alike_in_every_precision(expected, dtype, mean):
    chains, images = draw_and_edit(checkpoint.load("mini", DEVICE, getattr(torch, dtype)))
    assert chains == expected[0]
    assert np.abs(images - expected[1]).mean() < mean


@pytest.mark.skipif(DEVICE == "cpu", reason="offload moves weights to a GPU, and there is none")
@pytest.mark.parametrize("offload", checkpoint.OFFLOADS)
def test_mini_draws_and_edits_alike_with_offload(expected, offload):
    chains, images = draw_and_edit(checkpoint.load("mini", DEVICE, offload=offload))
    assert chains == expected[0]
    assert np.abs(images - expected[1]).mean() < 0.002


def test_weights_that_move_are_not_compiled():
    with pytest.raises(checkpoint.PlaceError, match="offload or compiling but got both"):
        checkpoint.load("nowhere", "cuda", offload="sequential", compiled=True)


@pytest.mark.parametrize(
    ("device", "variables", "said"),
    [
        ("cpu", {}, r"but g\+\+ cannot be run: install one .* or name one in CXX"),
        ("cuda", {}, "but gcc and clang cannot be run: install one .* or name one in CC"),
        ("cpu", {"CXX": "nowhere/c++ -O3"}, r"but CXX names 'nowhere/c\+\+ -O3', which does not run"),
        ("cuda", {"CC": "'"}, r"""but CC names "'", which does not run"""),
    ],
)
def test_compiling_without_a_compiler_is_refused_before_anything_is_read(
    monkeypatch, tmp_path, device, variables, said
):
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(checkpoint.PlaceError, match=said):
        checkpoint.load("nowhere", device, compiled=True)


@pytest.mark.parametrize(("device", "variable"), [("cpu", "CXX"), ("cuda", "CC")])
def test_a_compiler_that_runs_is_found_by_its_variable_and_is_not_enough_without_headers(
    monkeypatch, headers, device, variable
):
    monkeypatch.setenv(variable, f"{sys.executable} -I")
    assert precision.missing_to_compile(device) is None
    (headers / "Python.h").unlink()
    with pytest.raises(checkpoint.PlaceError, match=r"but Python's headers are missing .*apt-get install python3-dev"):
        checkpoint.load("nowhere", device, compiled=True)
    assert precision.missing_to_compile("mps") is None


def test_emulated_half_precision_is_warned_about(monkeypatch, caplog):
    monkeypatch.setattr(precision, "has_native_dtype", lambda dtype, device: dtype is torch.float32)
    checkpoint.load("mini", dtype=torch.bfloat16)
    assert caplog.messages == ["This cpu only emulates bfloat16: float32 is many times as fast"]
    checkpoint.load("mini")
    assert len(caplog.messages) == 1
