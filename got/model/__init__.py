"""The networks and what goes through them: reasoner, conditions, guidance, outputs. Knows no dataset and no command."""
