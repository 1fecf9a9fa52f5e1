"""Vision-language models: an image and a question come in, a reply goes out. Knows neither datasets nor benchmarks."""
