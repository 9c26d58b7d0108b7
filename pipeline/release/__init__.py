"""Whether a run may be released, and the archives that are."""
