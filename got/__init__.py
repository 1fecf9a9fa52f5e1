"""GoT: an image model that writes its plan first. A chain of thought with boxes, then a picture guided by it."""
