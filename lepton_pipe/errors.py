"""Every error a user can meet, and the exit status that goes with it.

A message names the value, the consequence and the remedy. The command line prints the message
alone; a traceback is for errors that are not in this tree.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from enum import IntEnum


class ExitStatus(IntEnum):
    """Exit statuses of ``lepton-pipe``; stable, meant for scripts."""

    COMPLETE = 0
    USAGE = 1
    FAILED = 2
    QUARANTINED = 3
    REFUSED = 4
    INTERRUPTED = 130
    TERMINATED = 143


_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room there"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "correct the permissions there"),
}
_URL = re.compile(r"(\w+://)(?:[^/\s@]*@)?([^\s?#'\"]*)(?:[?#][^\s'\",;)]*)?")


def without_secrets(text: str) -> str:
    """Return `text` with user, password, query and fragment taken out of every URL in it."""
    return _URL.sub(r"\1\2", text)


class LeptonError(Exception):
    """Base of all errors raised on purpose by lepton_pipe."""

    exit_status = ExitStatus.FAILED

    def __str__(self) -> str:
        return without_secrets(super().__str__())


class UsageError(LeptonError):
    """What was asked for makes no sense: an unknown name, a bad value, a missing path."""

    exit_status = ExitStatus.USAGE


class InputError(UsageError):
    """An input cannot be read as an image: missing, damaged, or of an unknown format."""


class SpecError(UsageError):
    """A pipeline does not fit its images or parameters.

    Parameters
    ----------
    pipeline
        Name of the pipeline.
    problems
        Every problem found, in the order of the pipeline's own lines.
    """

    def __init__(self, pipeline: str, problems: Sequence[str]) -> None:
        self.pipeline = pipeline
        self.problems = tuple(problems)
        head = f"{pipeline}: " if len(problems) == 1 else f"{pipeline}: {len(problems)} problems\n"
        super().__init__(head + "\n".join(f"  {p}" if len(problems) > 1 else p for p in problems))

    def __reduce__(self) -> tuple[type[SpecError], tuple[str, tuple[str, ...]]]:
        return type(self), (self.pipeline, self.problems)


class RefusedError(LeptonError):
    """A run that could not end well is refused before any work starts."""

    exit_status = ExitStatus.REFUSED


class MemoryRefusedError(RefusedError):
    """No block shape fits the memory that was given.

    Attributes
    ----------
    remedy
        What would do besides more memory; empty for nothing.
    """

    remedy = "store the input in smaller chunks"


class DeviceRefusedError(RefusedError):
    """No block shape fits the memory of the device."""


class OutputExistsError(RefusedError):
    """The output is already there and ``overwrite`` was not given."""


class LockedError(RefusedError):
    """Another run writes this output; says which."""


class RunError(LeptonError):
    """A run failed after it had started; nothing was published."""


class WriteError(RunError):
    """The system refused to write some of a result: a full disk, a missing permission."""

    @classmethod
    def of(cls, what: str, error: OSError) -> WriteError:
        """Return the error that says what the system refused, and what to do about it."""
        remedy = _REMEDIES.get(error.errno or 0, "look at the disk")
        return cls(f"{what}: {error.strerror or error}; {remedy}, then type the same command again")


class StalledError(RunError):
    """A run waited too long for something; says for what."""


class KernelError(RunError):
    """A kernel raised, or broke its declared contract, on one block."""


class LostBlockError(RunError):
    """A block ended the process that ran it, again and again, whatever ran beside it."""


class DeviceMemoryError(RunError):
    """A device had no room for a block, although the plan said that it would have."""


class DeviceLostError(RunError):
    """CUDA failed in a way after which this process can compute nothing on the device."""


class CastError(KernelError):
    """A cast would have lost values and was told to raise."""


class DamagedError(RunError):
    """Stored data is missing or does not match its checksum.

    Attributes
    ----------
    block
        Number of the block, in its stage, that met it; None where it was none.
    """

    block: int | None = None
