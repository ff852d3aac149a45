"""``registry demo``: a process that labels, and a trainer whose dataset grows meanwhile."""
