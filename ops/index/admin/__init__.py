"""The admin application, which registers users with a bearer token."""
