"""Training of the icon world's detector and CLIP. Scenes come in, weights with their card go out."""
