"""What the judged benchmarks share: data by hash, wording, questions to a judge, and tables with floor and bounds.

A suite brings a loader, its questions, how scores of one image combine, and its metrics; `JudgedSuite` the rest. It
knows no benchmark and no model.
"""
