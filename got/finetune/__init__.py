"""GoT's own training: chains by cross-entropy and pictures by denoising, end to end, on chain datasets."""
