"""GoT: an image model that writes its plan first. A chain of thought with boxes, then an image guided by it."""

from got.util import interrupts as interrupts
