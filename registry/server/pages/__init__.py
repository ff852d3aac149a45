"""The pages: HTML routes, their sessions, and the errors that people read."""
