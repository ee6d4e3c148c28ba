"""Loads the plugin for ``pytest --nbval notebooks/``."""

pytest_plugins = ["tests.notebooks.nbval_plugin"]
