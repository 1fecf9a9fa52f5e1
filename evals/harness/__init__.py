"""A command line comes in, a finished run directory goes out: plan, run, resume. Knows no suite."""
