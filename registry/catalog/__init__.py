"""Registries and datasets, and what looks after them."""
