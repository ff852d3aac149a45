"""Datasets in a database, for training on data that keeps growing."""

import lazy_loader

# The public names are in the stub next to this file; each loads its module on first use.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# The only place of the version: the build reads it here. The metadata of an installed distribution
# would take longer to read than the rest of this file.
__version__ = "0.1.0"
