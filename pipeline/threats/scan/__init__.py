"""Signs of a backdoor, looked for with a network and clean images alone."""
