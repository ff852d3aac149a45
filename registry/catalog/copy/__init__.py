"""Copying datasets between databases."""
