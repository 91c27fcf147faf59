"""Models inside kernels: PyTorch on the block where it lies, and on the stream of its lane."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from lepton_pipe.device.arrays import array_module, load


def run_model(model: Callable[[Any], Any], array: Any) -> Any:
    """Run a PyTorch model, or any function of a tensor, on an array.

    Nothing is copied between the GPU and the host: a block on a GPU goes to the model and comes
    back by DLPack, and the model runs on the block's stream. Gradients are not recorded.

    Parameters
    ----------
    model
        Takes a tensor of the array's shape, dtype and device, and returns a tensor that is on the
        same device.
    array
        NumPy's or CuPy's.

    Returns
    -------
    array
        What the model returned, as an array of NumPy or CuPy as `array` is.

    Notes
    -----
    What PyTorch takes of the device comes on top of what is planned, unless the kernel that calls
    this declares it in ``device_scratch=``: bytes for each voxel of its image.
    """
    torch, xp = load("torch"), array_module(array)
    if xp is np:
        # PyTorch has no tensors that cannot be written to, and blocks are handed out as such.
        block = np.array(array, order="C")
        with torch.inference_mode():
            return model(torch.from_numpy(block)).numpy()
    stream = torch.cuda.ExternalStream(xp.cuda.get_current_stream().ptr)
    with torch.inference_mode(), torch.cuda.stream(stream):
        made = model(torch.from_dlpack(xp.ascontiguousarray(array)))
        return xp.from_dlpack(made.contiguous())


def free_models_memory() -> None:
    """Have PyTorch give back to the device what it only keeps for later, where it is used."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and importlib.import_module("torch.cuda").is_initialized():
        torch.cuda.empty_cache()
