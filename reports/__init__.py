"""Run directories in, tables and images out. Loads no model."""
