"""What a run kept in memory between its stages, in a line for people."""

from __future__ import annotations

from collections.abc import Mapping

from lepton_pipe.cache.counts import Tier
from lepton_pipe.report.plan_text import count, size


def kept_lines(tiers: Mapping[str, Tier]) -> list[str]:
    """Return a line where something was kept in memory, none else."""
    packed, disk = tiers.get("packed", Tier()), tiers.get("disk", Tier())
    if not packed.put:
        return []
    line = (
        f"  kept between stages: {count(packed.put, 'chunk')}, {size(packed.raw_bytes)} packed to "
        f"{size(packed.nbytes)}"
    )
    if disk.put:
        line += f"; {disk.put} moved to disk for want of room ({disk.seconds:.1f} s)"
    if packed.dropped:
        line += f"; {packed.dropped} dropped for want of room there, and made again where needed"
    return [line]
