"""Benchmarks for image generators: image -> observation -> verdict -> scores. Try ``python -m evals.geneval --help``."""
