"""A single sample: its features, its record (the packed bytes) and its key."""
