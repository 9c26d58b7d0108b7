"""How much a unit, or a single weight, matters: one file for each criterion, with its source."""
