"""GoT's own training: chains by cross-entropy and images by denoising, end to end, on chain datasets."""
