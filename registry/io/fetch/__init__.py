"""Fetching of URIs, from below prefixes that the caller trusts and from nowhere else."""
