"""Axes, grids, regions and depth: pure integers, no arrays."""

from lepton_pipe.geometry.blocks import Blocks
from lepton_pipe.geometry.grid import (
    CANONICAL_AXES,
    SPATIAL_AXES,
    Grid,
    check_axes,
    default_axes,
)
from lepton_pipe.geometry.layout import Layout
from lepton_pipe.geometry.region import Depth, Region, no_depth, symmetric_depth

__all__ = [
    "CANONICAL_AXES",
    "SPATIAL_AXES",
    "Blocks",
    "Depth",
    "Grid",
    "Layout",
    "Region",
    "check_axes",
    "default_axes",
    "no_depth",
    "symmetric_depth",
]
