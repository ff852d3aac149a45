"""Statistics of a dataset, counted from the rows that came since the last count."""
