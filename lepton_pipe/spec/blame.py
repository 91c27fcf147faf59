"""Say which kernel, on what, and at which of the user's lines, when a kernel's code raises."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lepton_pipe.device.faults import fault_of
from lepton_pipe.errors import (
    CastError,
    DeviceLostError,
    DeviceMemoryError,
    KernelError,
    LeptonError,
)
from lepton_pipe.spec.canonical import Step

# Where a kernel's functions are called from.
_CALLERS = [str(Path(__file__).with_name(name)) for name in ("kernel.py", "absorb.py")]


# As NumPy, Cython and pandas say it of an array, a buffer, a destination.
_READ_ONLY = re.compile(r"read-?only")


@contextmanager
def blamed(step: Step, what: str) -> Iterator[None]:
    """Turn whatever is raised inside the block into a `KernelError` that names its origin.

    The original exception does not travel along, since it might not survive being pickled; its
    type, text and traceback stand in the message. A kernel that leaves by ``sys.exit`` has failed
    like any other. What fails for want of device memory, or since the device is lost, is not the
    kernel's doing: that is raised as what it means, see `lepton_pipe.device.faults`.

    Parameters
    ----------
    what
        What the kernel worked on, such as ``"block [0:64, 0:64]"``.
    """
    try:
        yield
    except (DeviceMemoryError, DeviceLostError):
        raise
    except LeptonError as error:
        kind = CastError if isinstance(error, CastError) else KernelError
        raise kind(f"{error}\n  in {step.id}, {what}\n  {step.where}") from None
    except (Exception, SystemExit) as error:  # noqa: BLE001  a kernel may raise anything
        if (fault := fault_of(error)) is not None:
            raise fault from None
        raise KernelError(
            f"{step.id} failed on {what}: {type(error).__name__}: {error}{_remedy(error)}\n"
            f"  {step.where}\n{_own_frames(error)}"
        ) from None


def _remedy(error: BaseException) -> str:
    """Return what to do about an error of which the text does not say it."""
    if isinstance(error, ValueError) and _READ_ONLY.search(str(error)):
        return (
            "; a kernel must not change the array it is given, which others may read as well: let "
            "it work on a copy (image.copy()), or return a new array"
        )
    return ""


def _own_frames(error: BaseException) -> str:
    """Return the traceback from the kernel's own code on: what called it is not its fault."""
    frames = traceback.extract_tb(error.__traceback__)
    calls = [i for i, f in enumerate(frames) if f.filename in _CALLERS]
    return "".join(traceback.format_list(frames[calls[-1] + 1 if calls else 0 :])).rstrip()
