"""Tests of the pages: their code runs, their links lead somewhere, their clauses are proven."""
