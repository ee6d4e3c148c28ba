"""Authentication and authorization: users, passwords, roles, throttling and the audit log."""
