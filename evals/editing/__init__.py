"""What the editing suites share: cases, metrics, scores, tables, contact sheets. Knows no back-end."""
