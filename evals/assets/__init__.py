"""The icon world's detector and CLIP: configs, weights, model cards, and what trains them."""
