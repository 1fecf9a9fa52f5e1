"""Work shared by processes of Ray. Jobs and batches come in, results go out in order. Knows no benchmark."""
