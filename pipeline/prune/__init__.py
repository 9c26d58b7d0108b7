"""Structured pruning: which channels belong together, which go, and how the network shrinks."""
