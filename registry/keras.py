"""Training Keras models on runs that grow."""

from registry.tensorflow.keras import Consumption, fit

__all__ = ["Consumption", "fit"]
