"""A user's own file: a kernel that ends its process on one block. Run by path, never imported."""

from __future__ import annotations

import os
import signal

import lepton_pipe as lp


# The scratch makes for many small blocks.
@lp.kernel(scratch=2000.0)
def plus(block, good=False, *, place):
    """Add one; end the process on the block that holds one voxel."""
    held = zip(place.write.start, (9, 81, 41), place.write.stop, strict=True)
    if not good and all(a <= n < b for a, n, b in held):
        os.kill(os.getpid(), signal.SIGKILL)
    return block + block.dtype.type(1)


@lp.pipeline
def poison(raw: lp.Image, *, good: bool = False) -> lp.Node:
    """Add one."""
    return plus(raw, good)
