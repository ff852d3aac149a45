"""Measurements of the registry, compared with other ways to read or write the same rows.

``python -m benchmarks`` runs them on a temporary PostgreSQL server and reports which requirements
hold. A subject is a function from `Bench` to `Result`s; they are listed in ``__main__.py``.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before anything imports TensorFlow
