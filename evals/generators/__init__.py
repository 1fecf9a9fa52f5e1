"""A sample comes in, an image and its chain go out. The one room of `evals` that knows the model."""
