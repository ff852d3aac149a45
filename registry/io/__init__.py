"""Import and export of files, and the formats and events of labeling tools."""
