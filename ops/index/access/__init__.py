"""Who may come in and what they may do: users, roles, logins, and the log of who did what."""
