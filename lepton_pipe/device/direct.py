"""From files straight to the memory of a device, by kvikio, where that is installed.

kvikio reads through GPUDirect Storage where the system has it, and else through host memory of its
own. It knows nothing of our streams: what was asked of them must be done before it reads.

CuFile: https://docs.rapids.ai/api/kvikio/stable/api/
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Any, Literal

from lepton_pipe.errors import RefusedError

_FLAG = "--device-direct"


def refuse_direct(device: Literal["cpu", "gpu"]) -> None:
    """Raise `RefusedError` when nothing can be read straight to a device from here."""
    if device == "cpu":
        raise RefusedError(
            f"{_FLAG}: kernels run on the cores (no GPU is there, or --device cpu was given), so "
            "that there is nothing to read straight to; leave it out, or use --device gpu"
        )
    if importlib.util.find_spec("kvikio") is None:
        raise RefusedError(
            f"{_FLAG}: kvikio, which reads files into the memory of a GPU, is not installed, so "
            "that nothing can be read straight to it; install kvikio-cu12 (kvikio-cu13 for CUDA "
            "13), or leave it out to read through host memory"
        )


class DirectFiles:
    """Reads parts of files, and keeps the last one open: chunks of a shard follow each other."""

    def __init__(self) -> None:
        self._kvikio = importlib.import_module("kvikio")
        self._path, self._file = "", None

    def __enter__(self) -> DirectFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        file: Any = self._file
        self._path, self._file = "", None
        if file is not None:
            file.close()

    def status(self, path: str) -> os.stat_result:
        """Return the status of a file that is open from now on; raise what kvikio raises."""
        if path != self._path:
            self._close()
            self._file = self._kvikio.CuFile(path)
            self._path = path
        file: Any = self._file
        return os.fstat(file.fileno())

    def read(self, target: Any, offset: int) -> bool:
        """Read the open file from an offset on, until an array of the device is full.

        Returns
        -------
        bool
            Whether it is; else what it holds is undefined.
        """
        file: Any = self._file
        return bool(file.read(target, file_offset=offset) == target.nbytes)
