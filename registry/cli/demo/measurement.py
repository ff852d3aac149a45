"""What the demo's trainer measures, apart from TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measurement:
    """State after an epoch: samples of the training split, and accuracy on the test split.

    ``revised`` counts the labels that were corrected since the epoch before.
    """

    samples: int
    revised: int
    accuracy: float
