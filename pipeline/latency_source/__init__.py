"""Milliseconds on the device, by widths: measured here, from the profile's table, or predicted from its rates."""
