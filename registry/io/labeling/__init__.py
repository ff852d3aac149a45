"""The events, exports and files of labeling tools, and their conversion to samples."""
