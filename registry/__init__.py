"""Datasets in a database, for training on data that keeps growing."""

from registry.append import Report
from registry.connection import Registry, connect
from registry.dataset import Dataset, Revision
from registry.errors import RegistryError
from registry.features import Bytes, ClassLabel, Features, Image, Ragged, Tensor, Text
from registry.heads import Head
from registry.page import Page
from registry.revisions import Entry
from registry.training import Epoch, Run
from registry.versions import Version

__all__ = [
    "Bytes",
    "ClassLabel",
    "Dataset",
    "Entry",
    "Epoch",
    "Features",
    "Head",
    "Image",
    "Page",
    "Ragged",
    "Registry",
    "RegistryError",
    "Report",
    "Revision",
    "Run",
    "Tensor",
    "Text",
    "Version",
    "connect",
]
