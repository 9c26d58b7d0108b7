"""How a run came to its results: an in-toto statement a step, read back, walked and repeated."""
