"""The local copy of a log: each row is read from the database once per machine.

`mirror` is what others use: it brings the copy up to date, and checks and repairs its files.
`layout` says which files there are and what they contain, `state` how much of them counts.
"""
