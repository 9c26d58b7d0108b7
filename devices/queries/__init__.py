"""Attacks by queries alone, on whatever answers: no gradients, no torch."""
