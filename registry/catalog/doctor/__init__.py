"""Examining a registry for problems."""
