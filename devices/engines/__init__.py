"""Engine runtimes, one module each: check, build, open, run."""
