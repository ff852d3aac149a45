from .connection import Registry, connect
from .dataset import Dataset
from .epoch import Epoch
from .erasing import Erasure
from .errors import RegistryError
from .features import Bytes, ClassLabel, Features, Image, Ragged, Tensor, Text
from .heads import Head
from .page import Page
from .plan import Report
from .policies import Replay
from .revisions import Entry, Revision
from .training import Run
from .versions import Version

__all__ = [
    "Bytes",
    "ClassLabel",
    "Dataset",
    "Entry",
    "Epoch",
    "Erasure",
    "Features",
    "Head",
    "Image",
    "Page",
    "Ragged",
    "Registry",
    "RegistryError",
    "Replay",
    "Report",
    "Revision",
    "Run",
    "Tensor",
    "Text",
    "Version",
    "connect",
]
