"""Settings of the C library's `malloc` under which chunks of samples reuse memory."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from typing import Any

KEPT_BYTES = 32 << 20
"""Free bytes at the end of the heap that the process keeps."""
HEAP_BYTES = 8 << 20
"""Bytes from which on an array gets its own memory, which is returned once it is free."""
_KEPT = (
    (-1, "MALLOC_TRIM_THRESHOLD_", KEPT_BYTES),
    (-3, "MALLOC_MMAP_THRESHOLD_", HEAP_BYTES),
)
"""Options of ``mallopt`` by their numbers in glibc's ``malloc.h``, and variables that set them."""


def keep_freed_memory() -> None:
    """Have the C library keep freed memory, so that the next chunk of samples reuses it.

    By default the GNU C library maps memory for each array of 128 KiB or more, and returns free
    memory at the end of the heap once it is 128 KiB. The next chunk then costs a page fault for
    each page: half of all time with texts (``python -m benchmarks --only train-texts``), a tenth
    with images (``train-photos``). The library normally raises both thresholds by what is freed,
    but too slowly for chunks on many threads. And TensorFlow switches that off: it sets the first
    one to 128 KiB whenever it makes the operation of a generator dataset
    (`ApplyPython311MemoryPatch` in
    https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/kernels/data/generator_dataset_op.cc).

    The settings hold for the whole process. ``MALLOC_MMAP_THRESHOLD_`` and
    ``MALLOC_TRIM_THRESHOLD_`` in the environment win.
    """
    for option, variable, size in _KEPT:
        if variable not in os.environ and _mallopt() is not None:
            _mallopt()(option, size)


@cache
def _mallopt() -> Any:
    """Return the function that sets an option of ``malloc``; None if there is none."""
    # Other C libraries have none, and the options are those of the GNU C library.
    return getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
