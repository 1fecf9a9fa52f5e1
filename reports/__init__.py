"""Run directories in, tables and images out. Loads no model."""

from got.util import interrupts as interrupts
