"""The model's command line, `python -m got`: one module a command."""
