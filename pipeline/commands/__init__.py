"""What each command of `espalier` does; heavy modules are imported by the command that needs them."""
