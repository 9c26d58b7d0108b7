"""Attacks by gradients, and corruptions: what evaluation sets are crafted with."""
