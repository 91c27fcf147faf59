"""Disks that can be broken: a file system whose power is cut, and mounts that refuse."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.command import PATIENCE

root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")

# FS_IOC_SHUTDOWN: from this instant on nothing reaches the device, the journal neither.
_SHUTDOWN, _WITHOUT_FLUSH = 0x8004587D, struct.pack("I", 2)
# The system itself writes nothing out for five minutes, and does nothing for those who forget to.
_LAZY = "loop,commit=300,noauto_da_alloc"


class Disk:
    """An ext4 file system of its own whose power can be cut.

    Parameters
    ----------
    image
        A file to be made: what the device holds.
    place
        Where it is mounted; made.
    """

    def __init__(self, image: Path, place: Path) -> None:
        self._image, self.place = image, place
        with image.open("wb") as file:
            file.truncate(64 << 20)
        _done("mkfs.ext4", "-q", "-F", image)
        place.mkdir()
        self._mount()
        (place / "w").mkdir()
        os.sync()

    @property
    def folder(self) -> Path:
        """An empty folder on it that is there after any cut."""
        return self.place / "w"

    def cut(self) -> None:
        """Cut the power now."""
        descriptor = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, _WITHOUT_FLUSH)
        finally:
            os.close(descriptor)

    def back(self) -> None:
        """Start again after a cut: what was in memory is gone, and the journal is replayed."""
        self._unmount()
        self._mount()

    def remove(self) -> None:
        """Remove it."""
        self._unmount()
        self._image.unlink()

    def _mount(self) -> None:
        _done("mount", "-o", _LAZY, self._image, self.place)

    def _unmount(self) -> None:
        # Processes that were killed a moment ago may hold files still.
        deadline = time.monotonic() + PATIENCE
        while subprocess.run(["umount", self.place], capture_output=True).returncode:
            assert time.monotonic() < deadline, f"{self.place} is in use"
            time.sleep(0.05)


@contextmanager
def mounted(place: Path, *options: object) -> Iterator[Path]:
    """Mount something at `place`, which is made; skip the test where that cannot be."""
    place.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *map(str, options), place], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr}")
    try:
        yield place
    finally:
        _done("umount", "-l", place)


def remounted(place: Path, options: str) -> None:
    """Mount again what is mounted, with other options."""
    _done("mount", "-o", f"remount,{options}", place)


def _done(*words: object) -> None:
    program = shutil.which(str(words[0]), path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if program is None:
        pytest.skip(f"{words[0]} is not installed here")
    result = subprocess.run([program, *map(str, words[1:])], capture_output=True, text=True)
    if result.returncode:
        pytest.skip(f"{words[0]} does not work here: {result.stderr}")
