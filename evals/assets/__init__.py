"""The icon world's detector and CLIP: weights, cards and figures. `training/` makes them."""
