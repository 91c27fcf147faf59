"""What a stage will take, and what other shapes of its blocks would."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a stage will take: bytes before compression, and core seconds.

    ``bytes_read`` is what blocks are given, overlap included; ``bytes_decoded`` the chunks
    decoded for it. ``device_bytes`` is what a task takes of a GPU besides its ``task_bytes``.
    """

    task_bytes: int
    bytes_read: int
    bytes_written: int
    core_seconds: float
    bytes_decoded: int = 0
    device_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Work:
    """Core seconds of all blocks of a stage, by what takes them."""

    compute: float = 0.0
    decode: float = 0.0
    encode: float = 0.0
    tasks: float = 0.0

    @property
    def total(self) -> float:
        """All of them together."""
        return self.compute + self.decode + self.encode + self.tasks

    def __add__(self, other: Work) -> Work:
        return Work(
            self.compute + other.compute,
            self.decode + other.decode,
            self.encode + other.encode,
            self.tasks + other.tasks,
        )


@dataclass(frozen=True, slots=True)
class Shape:
    """A block shape with what it comes to.

    Attributes
    ----------
    bytes_each
        Needed by one block.
    at_once
        Blocks computed at once.
    lanes
        Those of them that lie on a device at once; 0 where there is none.
    work
        Of all blocks, overlap and repeated decoding included.
    seconds
        Time by which shapes are compared; see `lepton_pipe.plan.shape`.
    """

    block: tuple[int, ...]
    bytes_each: int
    at_once: int
    work: Work
    seconds: float
    lanes: int = 0
