"""Registries and datasets, and their maintenance: copying, verifying and examining."""
