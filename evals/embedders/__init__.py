"""Images and texts come in, unit vectors go out. Knows no suite."""
