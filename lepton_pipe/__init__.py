"""Declarative pipelines over terabytes of images: planned, bounded in memory, on Dask and zarr."""

from lepton_pipe.api import Pipeline, Plan, open_image, pipeline
from lepton_pipe.spec import Image, Node, Place, Table, Value, ValueType, kernel

__version__ = "0.1.0"

__all__ = [
    "Image",
    "Node",
    "Pipeline",
    "Place",
    "Plan",
    "Table",
    "Value",
    "ValueType",
    "kernel",
    "open_image",
    "pipeline",
]
