"""Tests of the lanes: every promise on every lane, and what only lanes can get wrong (locks, threads, loops)."""
