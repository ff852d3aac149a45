from .catalog.dataset import Dataset
from .catalog.registry import Registry, connect
from .errors import RegistryError
from .samples.features import Bytes, ClassLabel, Features, Image, Ragged, Tensor, Text
from .samples.schema import Schema
from .storage.log.batch import Report
from .storage.log.entries import Entry, Revision
from .storage.log.erase import Erasure
from .storage.log.head import Head
from .storage.log.page import Page
from .storage.log.tags import Tag
from .storage.log.version import Version
from .training.epoch import Epoch
from .training.lineage import EpochLineage
from .training.mix import Mix, mix
from .training.policy import Replay
from .training.run import Run

__version__: str

__all__ = [
    "Bytes",
    "ClassLabel",
    "Dataset",
    "Entry",
    "Epoch",
    "EpochLineage",
    "Erasure",
    "Features",
    "Head",
    "Image",
    "Mix",
    "Page",
    "Ragged",
    "Registry",
    "RegistryError",
    "Replay",
    "Report",
    "Revision",
    "Run",
    "Schema",
    "Tag",
    "Tensor",
    "Text",
    "Version",
    "connect",
    "mix",
]
