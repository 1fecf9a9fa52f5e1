"""An image comes in, detections go out. Knows no suite and no prompt."""
