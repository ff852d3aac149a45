"""Training Keras models on runs that grow.

Plain ``model.fit`` learns the number of batches in its first epoch and never trains on more in a
later one, so it leaves out most of what arrives while it runs. `fit` calls it once per epoch
instead, and to callbacks it looks like one training.
"""

from registry.tensorflow.keras.consumption import Consumption
from registry.tensorflow.keras.fit import fit

__all__ = ["Consumption", "fit"]
