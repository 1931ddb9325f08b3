"""Fixtures of this room."""

from tests.registry.kit import install

__all__ = ["install"]
