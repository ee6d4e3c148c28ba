"""A directory that may be a Volume, and how files come to lie in it: whole or not at all, and by one writer."""
