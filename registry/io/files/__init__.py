"""File formats: a module for each, with its reader and, if it can be exported, its writer."""
