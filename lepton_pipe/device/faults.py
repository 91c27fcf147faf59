"""What goes wrong on a device: memory that is not there, and a context that is lost.

When CUDA reports anything but a lack of memory (an address that is none, an error of the memory
itself, a card that has fallen off), the context of the process is lost with all that lies in it:
every later call fails, too. Such a process can only leave.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lepton_pipe.errors import DeviceLostError, DeviceMemoryError, LeptonError

# Names, not classes: CuPy and PyTorch need not be there, and RMM's errors are Python's own.
_THEIRS = ("cupy", "cupy_backends", "torch")
_MEMORY = ("OutOfMemoryError",)
_CUDA = ("CUDARuntimeError", "CUDADriverError", "CURANDError", "CUFFTError", "AcceleratorError")
_NO_MEMORY = ("cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY")
_OF_RMM = "std::bad_alloc"
# What is wrong with a kernel or its launch, not with the context.
_HARMLESS = (
    "cudaErrorInvalidValue",
    "cudaErrorInvalidConfiguration",
    "cudaErrorLaunchOutOfResources",
    "cudaErrorInvalidDeviceFunction",
    "CUDA_ERROR_INVALID_VALUE",
    "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
    "CUDA_ERROR_NOT_FOUND",
    "CUDA_ERROR_NO_BINARY_FOR_GPU",
    "CUDA_ERROR_INVALID_PTX",
)


def fault_of(error: BaseException) -> LeptonError | None:
    """Return what an error of CuPy, RMM, PyTorch or CUDA means for the process; None for any other.

    Returns
    -------
    DeviceMemoryError
        Where the device had no room: what ran can be tried again.
    DeviceLostError
        Where nothing can run on the device in this process any more.
    """
    if isinstance(error, (DeviceMemoryError, DeviceLostError)):
        return error
    kind, text = type(error), str(error)
    theirs = kind.__module__.partition(".")[0] in _THEIRS
    if (theirs and kind.__name__ in _MEMORY) or any(word in text for word in _NO_MEMORY):
        return DeviceMemoryError(f"the device has no room for it: {text}")
    if isinstance(error, MemoryError) and _OF_RMM in text:
        return DeviceMemoryError(f"the device has no room for it: {text}")
    if theirs and kind.__name__ in _CUDA and not any(word in text for word in _HARMLESS):
        return DeviceLostError(
            f"the context of the device is lost: {text}; nothing can be computed on it by this "
            "process any more"
        )
    return None


@contextmanager
def device_faults() -> Iterator[None]:
    """Raise what an error of the device means, see `fault_of`; others as they are."""
    try:
        yield
    except Exception as error:
        found = fault_of(error)
        if found is None or found is error:
            raise
        raise found from None
