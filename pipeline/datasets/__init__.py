"""Data sets that recipes name as factories."""
