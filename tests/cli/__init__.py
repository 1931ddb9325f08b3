"""Tests of the command line: in this process where that shows it, in child processes where only those can."""
