"""A stand-in for kvikio: reads files into arrays of `tests.fake_device`, and fails when told to.

As kvikio, it takes contiguous arrays of the device alone, waits for no stream, and tells how many
bytes it has read: https://docs.rapids.ai/api/kvikio/stable/api/.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from tests.fake_device import ndarray
from tests.fake_memory import DEVICE, current

Fault = Callable[["CuFile"], None]
"""What happens before a read; it raises what that raises."""


class CuFile:
    """An open file."""

    read_bytes = 0
    open_files = 0
    faults: ClassVar[deque[Fault]] = deque()

    def __init__(self, file: Path | str, flags: str = "r") -> None:
        assert flags == "r"
        self._descriptor = os.open(file, os.O_RDONLY)
        CuFile.open_files += 1

    def close(self) -> None:
        os.close(self._descriptor)
        CuFile.open_files -= 1

    def fileno(self) -> int:
        return self._descriptor

    def read(
        self,
        buf: Any,
        size: int | None = None,
        file_offset: int = 0,
        task_size: int | None = None,
    ) -> int:
        assert isinstance(buf, ndarray) and buf.flags.c_contiguous
        assert current().done == current().begun, "the memory is still in use by the stream"
        DEVICE.check()
        if CuFile.faults:
            CuFile.faults.popleft()(self)
        data = os.pread(self._descriptor, buf.nbytes if size is None else size, file_offset)
        flat = buf._raw.reshape(-1).view(np.uint8)
        flat[: len(data)] = np.frombuffer(data, np.uint8)
        CuFile.read_bytes += len(data)
        return len(data)


@contextmanager
def fake_kvikio() -> Iterator[type[CuFile]]:
    """Let kvikio be importable within the block; yields its class of files."""
    module = ModuleType("kvikio")
    module.__spec__ = ModuleSpec("kvikio", None)
    vars(module).update(CuFile=CuFile)
    before = sys.modules.get("kvikio")
    sys.modules["kvikio"] = module
    CuFile.read_bytes = CuFile.open_files = 0
    CuFile.faults.clear()
    try:
        yield CuFile
    finally:
        assert CuFile.open_files == 0, "files stay open"
        if before is None:
            del sys.modules["kvikio"]
        else:
            sys.modules["kvikio"] = before
