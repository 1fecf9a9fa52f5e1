"""Images come in, chains go out, written by a vision-language model: ask, read the reply, check. Trains nothing."""
