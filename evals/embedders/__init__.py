"""Images and texts come in, unit vectors and the colours of crops go out. Knows no suite."""
