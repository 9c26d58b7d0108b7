"""Everything that needs torch, and the chain itself."""
