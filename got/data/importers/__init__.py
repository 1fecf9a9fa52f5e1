"""Public datasets come in as they were published, examples go out. Knows no format that we write."""
