"""Threats of small devices: the engine against its parent, patches, calibration, memory errors, membership."""
