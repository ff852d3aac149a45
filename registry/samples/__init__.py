"""One sample: its features, its bytes, its key."""
