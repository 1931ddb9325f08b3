"""chainweaver: typed flows compiled once and run deterministically inside a Python program."""
