"""Training Keras models on runs that grow.

`fit` calls ``model.fit`` once per epoch, and callbacks see one training. A single call would leave
out most of the samples that arrive while it runs: it counts the batches in its first epoch, and
never trains on more in a later one.
"""

from registry.tensorflow.keras.consumption import Consumption
from registry.tensorflow.keras.fit import fit
from registry.tensorflow.keras.lineage import Lineage

__all__ = ["Consumption", "Lineage", "fit"]
