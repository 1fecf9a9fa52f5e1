"""Chain datasets: what GoT is trained on, how it is kept on disk, where it comes from."""
