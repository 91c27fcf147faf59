"""The one door to CuPy: whose an array is, moving arrays, memory, streams, faults."""

from lepton_pipe.device.arrays import (
    DeviceChoice,
    array_module,
    choose_device,
    device_count,
    frozen,
    load,
    loops,
    ndimage,
    own_kernels,
    to_device,
    to_host,
    tracing,
)
from lepton_pipe.device.models import run_model

__all__ = [
    "DeviceChoice",
    "array_module",
    "choose_device",
    "device_count",
    "frozen",
    "load",
    "loops",
    "ndimage",
    "own_kernels",
    "run_model",
    "to_device",
    "to_host",
    "tracing",
]
