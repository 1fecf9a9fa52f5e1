"""Pure functions from numbers and boxes to scores and intervals. Knows no model and no file."""
