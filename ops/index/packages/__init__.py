"""Packages: uploaded files, their metadata, and changes of releases."""
