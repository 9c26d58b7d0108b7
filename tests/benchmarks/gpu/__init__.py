"""What to run once on a machine with an NVIDIA GPU: `make gpu-check`."""
