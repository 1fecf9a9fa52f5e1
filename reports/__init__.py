"""Run directories in, tables and pictures out. Loads no model."""
