"""A run without a trained model, for tests: the real suite, the oracle generator, and a detector made of arithmetic.

As a program it makes such a run in a process of its own, which a test can then kill.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from pathlib import Path

import pytest

from evals.core.backends import Tools
from evals.core.records import Detection
from evals.core.vocabulary import CLASSES
from evals.generators.oracle import OracleGenerator
from evals.geneval import suite as geneval
from evals.harness import cli
from evals.harness.runner import run
from evals.harness.worker import Job
from got.util.hashes import HASHES, HashedFolder

LOGS = ("results.jsonl", "observations.jsonl", "chains.jsonl", "failures.jsonl", "scores.json")


def lines(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def accept(*paths):
    """Takes changed files of a run as if it had written them; a run of an older version has no hashes."""
    for path in paths:
        folder = HashedFolder(path.parent)
        if folder.is_hashed():
            folder.accept(path.name)


def as_older(folder):
    """Makes a run one of an older version, which kept no hashes."""
    (folder / HASHES).unlink()
    return folder


def small_environment():
    """For a process that a test starts: our code, and one thread."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}


def contents(folder, names=LOGS):
    return {name: (folder / name).read_bytes() for name in names}


TOOLS = ["--detector", "hf:arithmetic", "--embedder", "openclip:none"]
"""Names without weights on this machine: a run's identity must not depend on the weights that the repository holds."""


class ArithmeticDetector:
    """Answers from the pixels alone: one image, one answer, whatever the batch. It always finds one to four people."""

    name = "arithmetic"
    min_score = 0.05
    classes = frozenset(CLASSES)

    def __init__(self, seconds=0.0, most=None):
        self.seconds, self._more = seconds, float("inf") if most is None else most

    def detect(self, images):
        time.sleep(self.seconds if self._more > 0 else 600)  # until somebody ends it
        self._more -= len(images)
        return [self._look(image) for image in images]

    def _look(self, image):
        digest = hashlib.sha256(image.tobytes()).digest()
        return [
            Detection(name="person", score=0.95 - i / 10, box_xyxy_px=(digest[i] % 30, i, 33 + digest[i] / 9, 50.5))
            for i in range(1 + digest[0] % 4)
        ]


class NoEmbedder:
    """Nobody asks for the colour of a person."""

    name = "none"

    def embed_images(self, images):
        raise AssertionError("no colour is asked for")

    def embed_texts(self, texts):
        raise AssertionError("no colour is asked for")


def make_plan(output, *words, generator=None, detector=None, suite=geneval.SUITE):
    """The plan of a command line, with other tools. Any seed, limit, batch size or stage goes in as words."""
    shared = ["--model", "oracle", "--images-per-prompt", "2", *TOOLS]
    plan = cli.make_plan(suite, [*shared, "--output", str(output), *words])
    plan.generator = generator or OracleGenerator()
    plan.tools = Tools(detector=lambda: detector or ArithmeticDetector(), embedder=NoEmbedder)
    plan.machine = {"device": "cpu"}
    return plan


def refusing(plan, *names, why=pytest.fail):
    """The plan, of which some parts cannot be had: asking for one calls `why`."""

    def refuse(_):
        why(f"{names} is not to be asked for")

    for name in names:
        vars(plan).pop(name, None)
    plan.__class__ = type("Refusing", (type(plan),), {name: property(refuse) for name in names})
    return plan


def worker_of(generator, suite=geneval.SUITE):
    """A worker of a run that is never begun."""
    return Job(plan=make_plan("never", generator=generator, suite=suite)).worker()


def plan_like_reference(folder, *words, **tools):
    return make_plan(folder, "--limit", "12", "--batch-size", "5", *words, **tools)


def main(arguments=None):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--most", type=int, help="so many images are looked at; the next batch takes for ever")
    known, words = parser.parse_known_args(arguments)

    def work():
        run(make_plan(known.output, *words, detector=ArithmeticDetector(known.seconds, known.most)))
        return 0

    return cli.run_as("kit", work)


if __name__ == "__main__":
    sys.exit(main())
