"""The released GoT-6B: its names, its conversion, its behaviour step by step, and the memory it takes."""
