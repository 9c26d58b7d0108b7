"""Attacks by gradients: what adversarial evaluation sets are crafted with."""
