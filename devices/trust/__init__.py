"""Who may sign a bundle, and whether a signature is theirs: the standard library and the `openssl` command only."""
