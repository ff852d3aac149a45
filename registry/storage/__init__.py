"""Where samples are kept: the database, the log in it, and the local mirror."""
