"""What a network's outputs mean: loss, score and agreement of each task."""
