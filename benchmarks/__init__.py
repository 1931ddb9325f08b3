"""Benchmarks: what a step costs, as a ratio to the loop that a careful engineer writes by hand. See README.md here."""
