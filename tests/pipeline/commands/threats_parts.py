"""A recipe that is scanned, and what makes a whole run of it short, for the tests of `espalier scan`."""

from __future__ import annotations

RECIPE = """
name = "tiny"
threads = 1
[model]
factory = "pipeline.zoo:residual_cnn"
args = { channels = 8, blocks = 1 }
[data]
factory = "pipeline.datasets.poisoned_digits:poisoned_digits"
args = { kind = "sinusoidal", target = 4 }
[train]
epochs = 3
[prune]
target_macs = 0.7
[threats]
scan = ["inversion", "warping", "sensitivity", "stages", "clustering"]
samples = 8
inversion_steps = 2
references = 1
"""
QUICK = """
[parity]
samples = 16
int8_sqnr_db = -20
int8_agreement = 0.3
int8_engine_agreement = 0.5
int8_engine_sqnr_db = 0
[measure]
duration_s = 0.1
warmup_s = 0.01
processes = 1
[robustness]
attacks = []
queries = []
corruptions = []
samples = 20
"""
