"""Pruning against Torch-Pruning: `make bench-pruning`. `__main__.py` says what is run, `table.py` what is printed."""
