"""Durable storage: a directory or a Volume, files written whole, and locks on their names."""
