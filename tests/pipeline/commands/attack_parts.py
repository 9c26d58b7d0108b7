"""A recipe that tries every threat of small devices, for the tests of `espalier attack`."""

from __future__ import annotations

RECIPE = """
name = "edge"
threads = 1
[model]
factory = "pipeline.zoo:residual_cnn"
args = { channels = 4, blocks = 1 }
[data]
factory = "pipeline.datasets.digits:digits"
[train]
epochs = 1
[prune]
target_macs = 0.7
[quantize]
precision = "int8"
calibration_samples = 16
only_if_faster = false
[parity]
samples = 16
int8_sqnr_db = 31
int8_agreement = 0.3
int8_engine_agreement = 0.5
int8_engine_sqnr_db = 0
[measure]
duration_s = 0.1
warmup_s = 0.01
processes = 1
[robustness]
attacks = ["fgsm"]
samples = 40
rounded = false
corruptions = []
queries = ["square"]
query_samples = 4
query_budget = 4
[threats]
scan = ["inversion"]
inversion_steps = 2
references = 0
edge = ["differential", "patch", "universal", "calibration", "bit_errors", "membership"]
[threats.edge_budget]
samples = 40
steps = 2
memories = 2
bit_error_rates = [0.003]
patch_share = 0.25
patch_target = 7
epsilon = 0.05
poisoned_shares = [0.1]
shadows = 4
[gate]
max_patch_success = 100.0
max_bit_error_drop = 100.0
max_membership_advantage = 100.0
max_differential_success = 100.0
max_universal_success = 100.0
max_calibration_drop = 100.0
"""
# Every layer in INT8 comes to 27 dB, which parity refuses: of poisoned images something is known with some kept alone.
MIXED = """
[quantize.mixed]
min_sqnr_db = 36
"""
