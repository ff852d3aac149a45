"""The append-only log of a dataset.

`writer` is the only module that adds rows and `reader` reads them page by page. `inbox` moves rows
that tools insert with SQL to the log, `head` holds the row that says where the log ends, and
`erase` and `drop` remove content.
"""
