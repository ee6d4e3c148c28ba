"""What the index has: distributions that are checked, kept durably and for good, and what is known of them."""
