"""Measures of the registry beside what else reads or writes the same rows.

``python -m benchmarks`` runs them on a temporary PostgreSQL server and says which of the required
ratios hold. Every subject is a function from `Bench` to `Result`s, listed in ``__main__.py``.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before anything imports TensorFlow
