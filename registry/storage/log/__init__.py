"""The append-only log of a dataset."""
