"""Clocks, temperature, power and modes of the device: read before, during and after a measurement, never changed."""
