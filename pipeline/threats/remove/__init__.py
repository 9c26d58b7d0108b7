"""Backdoors removed by pruning, with thresholds from clean images alone."""
