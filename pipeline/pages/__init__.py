"""Pages over several runs: a comparison, and an index."""
