"""What installs this package: its name on an index differs from the one that it is imported by."""

DISTRIBUTION = "registry-datasets"
"""The name on a package index, where ``registry`` is another project's."""


def install_extra(extra: str) -> str:
    """Return the command that installs an extra, as messages of errors give it."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"
