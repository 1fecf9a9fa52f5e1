"""Records, run directories and what else every part of a benchmark shares. Knows no suite, no back-end and no model."""
