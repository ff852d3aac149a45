"""Files and labeling tools, in and out."""
