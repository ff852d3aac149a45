"""Training Keras models on runs that grow."""

from registry.tensorflow.keras import Consumption, Lineage, fit

__all__ = ["Consumption", "Lineage", "fit"]
