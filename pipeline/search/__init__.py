"""Genetic search for widths: NSGA-II over the share that each group keeps."""
