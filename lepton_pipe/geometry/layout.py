"""How an image is stored: chunk and shard shape of one scale level."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_pipe.geometry.grid import Grid


@dataclass(frozen=True, slots=True)
class Layout:
    """How one scale level is stored: its grid, chunk shape and, when sharded, shard shape."""

    grid: Grid
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None = None

    @property
    def unit(self) -> tuple[int, ...]:
        """The unit of writing: a task writes whole ones, so that no two tasks share one."""
        return self.shards or self.chunks
