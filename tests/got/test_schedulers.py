"""Every scheduler class of diffusers: it draws what DDIM draws, or is refused in one line."""

import re

import diffusers
import got_kit
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, schedulers

from got import checkpoint
from got.model.sampling import Steps, check_scheduler

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # diffusers, with numpy 2
    pytest.mark.filterwarnings("ignore:Should have t:UserWarning"),  # torchsde, of rounding
]

EXACT = {  # the same image as DDIM, of the same noise
    "DDIMParallelScheduler", "DDIMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler", "EulerDiscreteScheduler", "KDPM2DiscreteScheduler", "LMSDiscreteScheduler",
    "PNDMScheduler", "UniPCMultistepScheduler",
}  # fmt: skip
NOISY = {  # with noise of their own, and so with another background
    "DDPMParallelScheduler", "DDPMScheduler", "EulerAncestralDiscreteScheduler", "LCMScheduler", "SASolverScheduler",
    "TCDScheduler",
}  # fmt: skip
SDE = "DPMSolverSDEScheduler"  # of torchsde
SECOND_ORDER = ("HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler")  # with timestep_spacing="leading"
ALL = sorted(name for name in dir(schedulers) if name.endswith("Scheduler"))
MOST_EXACT, MOST_NOISY = 0.01, 0.13
"""Mean difference of pixels in [0, 1] that the documentation states."""


def make(name, like, **changes):
    """A scheduler of that class, or a skip where the class needs more than a configuration."""
    found = getattr(diffusers, name, None) or getattr(schedulers, name)
    try:
        return found.from_config(like.config, **changes)
    except (TypeError, KeyError, ImportError) as error:
        pytest.skip(f"diffusers cannot make it: {str(error).strip().splitlines()[0]}")


@pytest.fixture(scope="module")
def sdxl():
    return DDPMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, clip_sample=False,
        timestep_spacing="leading",
    )  # fmt: skip


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("steps", [10, 50])
def test_every_class_of_diffusers_is_accepted_or_refused_in_a_line(name, steps):
    trained = got_kit.pipeline().scheduler
    scheduler, known = make(name, trained), name in EXACT | NOISY | {SDE}
    if name in SECOND_ORDER or (name == "KDPM2DiscreteScheduler" and steps == 10):
        known = name.startswith("KDPM2") and steps == 50
    before = dict(scheduler.config)
    try:
        check_scheduler(scheduler, trained, Steps(count=steps))
        refused = None
    except ValueError as error:
        refused = str(error)
    assert (refused is None) is known
    assert refused is None or (name in refused and "\n" not in refused)
    assert dict(scheduler.config) == before


@pytest.mark.parametrize("name", [*sorted(EXACT | NOISY), *SECOND_ORDER])
def test_schedulers_fit_sdxls_schedule_and_predictions_of_noise(sdxl, name):
    check_scheduler(make(name, sdxl), sdxl, Steps(count=20))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("DDIMScheduler", {"prediction_type": "epsilon"}, "near DDIM"),
        ("DDIMScheduler", {"clip_sample": True}, "near DDIM"),
        ("DDIMScheduler", {"beta_schedule": "linear"}, "has another"),
        ("DDIMScheduler", {"num_train_timesteps": 500}, "has another"),
        ("DPMSolverMultistepScheduler", {"prediction_type": "flow_prediction", "use_flow_sigmas": True}, "near DDIM"),
        ("FlowMatchEulerDiscreteScheduler", {}, "has none"),
        ("HeunDiscreteScheduler", {}, "timestep_spacing='leading'"),
        ("RePaintScheduler", {}, "fails: TypeError"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(name, changes, message):
    trained = got_kit.pipeline().scheduler
    with pytest.raises(ValueError, match=re.escape(message)):
        check_scheduler(make(name, trained, **changes), trained, Steps(count=20))


def test_the_pipeline_refuses_a_scheduler_before_it_writes_a_chain():
    pipe = got_kit.make_pipeline()
    pipe.scheduler = diffusers.HeunDiscreteScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(ValueError, match="HeunDiscreteScheduler with 10 steps"):
        pipe("a red apple", num_inference_steps=10)
    pipe.scheduler = diffusers.HeunDiscreteScheduler.from_config(pipe.scheduler.config, timestep_spacing="leading")
    done = pipe("a red apple", chain=got_kit.APPLE, num_inference_steps=10, generator=got_kit.generator(0))
    assert done.images[0].size == (32, 32)
    assert pipe.num_timesteps == 19


@pytest.mark.parametrize("sigmas", ["use_karras_sigmas", "use_exponential_sigmas", "use_lu_lambdas"])
def test_dpm_solver_with_other_noise_levels_finds_its_first_step(sigmas):
    pipe = got_kit.make_pipeline()
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, **{sigmas: True})
    images = pipe("dogs", chain="dogs", generator=got_kit.generator(0), output_type="np").images
    assert np.isfinite(images).all()


def test_noise_of_torchsde_comes_from_the_generators():
    pytest.importorskip("torchsde", reason="DPMSolverSDEScheduler needs torchsde")
    pipe = got_kit.make_pipeline()
    pipe.scheduler = diffusers.DPMSolverSDEScheduler.from_config(pipe.scheduler.config)
    before = torch.random.get_rng_state()

    def draw(*seeds):
        generators = [got_kit.generator(seed) for seed in seeds]
        options = {"chain": ["dogs"] * len(seeds), "output_type": "np", "num_inference_steps": 6}
        return pipe(["dogs"] * len(seeds), generator=generators, **options).images

    together = draw(3, 4)
    np.testing.assert_allclose(draw(4)[0], together[1], atol=1e-4)
    assert np.abs(together[0] - together[1]).max() > 0.01
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.slow
def test_minis_images_are_those_of_ddim_within_the_stated_distance():
    pipe = checkpoint.load("mini")
    pipe.set_progress_bar_config(disable=True)
    prompt, trained = "a photo of a red apple and a blue dog", pipe.scheduler
    chain = pipe.think(prompt)

    def draw(scheduler):
        pipe.scheduler = scheduler
        options = {"num_inference_steps": 30, "output_type": "np", "generator": got_kit.generator(0)}
        return pipe(prompt, chain=chain, **options).images[0]

    expected = draw(DDIMScheduler.from_config(trained.config))
    apart = {name: np.abs(draw(make(name, trained)) - expected).mean() for name in sorted(EXACT | NOISY)}
    for name in SECOND_ORDER:
        apart[name] = np.abs(draw(make(name, trained, timestep_spacing="leading")) - expected).mean()
    print(apart)  # noqa: T201  # the figures of docs/python.md, with -s
    assert all(apart[name] < MOST_EXACT for name in EXACT)
    assert all(distance < MOST_NOISY for distance in apart.values())
