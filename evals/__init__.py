"""Benchmarks for image generators: image -> observation -> verdict -> scores. See ``python -m evals.geneval -h``."""

from got.util import interrupts as interrupts
