"""How examples lie on disk: a folder, Parquet files or WebDataset shards. Knows no source of examples."""
