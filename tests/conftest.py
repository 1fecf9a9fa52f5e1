"""What every test shares: no network, few threads, reproducible property tests."""

import gc
import os
import shutil
import subprocess
import sys

import hypothesis
import pytest

# Before any test imports a library that reads them: tests load weights from this repository only.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Ray reads this once in a process, and a process that talks by tokens ends whatever a Ray without them starts.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
if "PYTEST_XDIST_WORKER" in os.environ:  # with several processes, threads would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
_THREADS = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))

# A busy machine must not fail a property test, and a failure in CI must come back on the next run.
hypothesis.settings.register_profile("local", deadline=None, max_examples=30)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=30, derandomize=True)
hypothesis.settings.register_profile("nightly", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What is imported and collected stays to the end: no search for garbage looks through it, now or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_unconfigure():
    gc.unfreeze()  # what is left at the end of the process is taken apart as ever


@pytest.fixture(autouse=True)
def _threads():
    """A command that sets torch's number of threads sets it for its whole process; here, until its test ends."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(_THREADS)


@pytest.fixture(scope="session")
def mmdet():
    """MMDetection, where it can be imported; elsewhere the tests that need it are skipped, with what mends it."""
    from evals.detectors import mmcv_ops

    try:
        return mmcv_ops.import_mmdet()
    except mmcv_ops.MMDetectionError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def chromium():
    """A browser: the system's, or playwright's own; the tests that need one are skipped where it cannot start."""
    playwright = pytest.importorskip("playwright.sync_api", exc_type=ImportError)
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    # Chromium's sandbox does not start for root, as in a container.
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    # Apart from this process, because a driver that cannot start leaves an event loop behind and says nothing.
    driver = subprocess.run(
        [sys.executable, "-m", "playwright", "--version"], capture_output=True, text=True, check=False
    )
    if driver.returncode:
        said = driver.stderr.strip().splitlines() or [f"exit code {driver.returncode}"]
        pytest.skip(f"playwright's driver cannot start: {said[-1]}")
    with playwright.sync_playwright() as run:
        try:
            browser = run.chromium.launch(executable_path=found, args=flags)
        except playwright.Error as error:
            pytest.skip(f"no browser can be started: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture(params=["bfloat16", "float32"])
def precision(request, monkeypatch):
    """Training as on both kinds of processor: those with bfloat16, and those that only emulate it."""
    import torch  # tests of what needs no torch share this file

    from got.util import precision as speed

    short = request.param == "bfloat16"
    monkeypatch.setattr(speed, "has_native_dtype", lambda dtype, device: short or dtype is torch.float32)
    return request.param


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """A process holds some gigabytes of weights and libraries, so there are not more of them than eight."""
    return min(8, len(os.sched_getaffinity(0)))
