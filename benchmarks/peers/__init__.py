"""Shuffled batches for training from other projects' formats, next to the registry's.

``python -m benchmarks.peers`` compares the samples per second and the CPU per sample on numbers,
texts and JPEG files. It needs a separate environment, which ``benchmarks/peers-requirements.txt``
describes, since some of these projects need other versions of common libraries.

A module of this package is a project. It writes the samples in the project's format, and makes
`Loader`s as the project's documentation advises for shuffled batches. Where that leaves a choice,
such as the number of worker processes, there is a loader for each, and the fastest counts. Each
project runs in its own process (`worker`): some start threads or processes that would disturb
another, and TensorFlow and PyTorch do not share a thread pool.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is downloaded
