"""Training of the embedded weights, stage by stage: scenes of the icon world come in, a pipeline goes out."""
