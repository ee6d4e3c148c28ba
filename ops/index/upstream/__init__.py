"""pypiserver underneath: its upload API, fed by a form parser that streams."""
