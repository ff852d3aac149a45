"""File formats: a module for reading each, and one for writing where it can be exported."""
