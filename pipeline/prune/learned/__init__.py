"""Scores that are learned: which channels or weights the recipe's loss needs, the weights themselves frozen."""
