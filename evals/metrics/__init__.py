"""Pure functions from boxes and outcomes to numbers: no model, no file, no global state."""
