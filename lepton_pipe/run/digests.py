"""What is to be said of a run that knows its inputs by their bytes, or that no longer does."""

from __future__ import annotations

from collections.abc import Mapping

from lepton_pipe.ledger.ledger import Ledger
from lepton_pipe.report.plan_text import size
from lepton_pipe.run.asked import ASKED
from lepton_pipe.store.source import Source
from lepton_pipe.store.urls import is_url


def digest_notes(sources: Mapping[str, Source], *, looked: bool) -> list[str]:
    """Return what it costs to know inputs by their bytes, and where that cannot be had.

    Parameters
    ----------
    looked
        Whether planning has read them already, to find out what an update has to do.
    """
    notes = []
    total = sum(s.stored_bytes() or 0 for s in sources.values() if s.by_bytes)
    if total:
        before = ", and were for this plan" if looked else ""
        notes.append(
            f"input files are read for their digests when the run begins{before}: {size(total)}"
        )
    notes += [
        f"input {name} is at a URL, so digest does not read it: it is known by what the server "
        "says of its version (ETag, else time)"
        for name, source in sources.items()
        if is_url(source.uri)
    ]
    return notes


def known_otherwise(ledger: Ledger, sources: Mapping[str, Source]) -> dict[str, str]:
    """Return how inputs are known now and were in the run of a ledger, where these are not alike.

    What was made of them then cannot be told to be the same, so it is made anew.
    """
    asked = ledger.get_fact(ASKED)
    if asked is None:
        return {}
    by_bytes = bool(asked["options"].get("digest", False))
    return {
        name: f"input {name} is known by {_ways(source.by_bytes)} now, was by {_ways(by_bytes)}"
        for name, source in sources.items()
        if source.paths() and source.by_bytes != by_bytes
    }


def _ways(by_bytes: bool) -> str:
    return "its bytes (digest)" if by_bytes else "size and time"
