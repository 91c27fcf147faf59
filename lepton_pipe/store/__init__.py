"""Doors to data: zarr, OME-Zarr, TIFF, stacks of planes, NumPy arrays; and where results go."""

from lepton_pipe.geometry.layout import Layout
from lepton_pipe.store.copying import copy_block, copyable
from lepton_pipe.store.durable import remove_partials, sync_path, sync_tree
from lepton_pipe.store.ome import create_image, create_scratch
from lepton_pipe.store.open import open_source
from lepton_pipe.store.source import Source
from lepton_pipe.store.target import ArrayTarget
from lepton_pipe.store.urls import is_url

__all__ = [
    "ArrayTarget",
    "Layout",
    "Source",
    "copy_block",
    "copyable",
    "create_image",
    "create_scratch",
    "is_url",
    "open_source",
    "remove_partials",
    "sync_path",
    "sync_tree",
]
