"""A private Python package index for a team, run from notebooks."""

__version__ = "0.1.0"
