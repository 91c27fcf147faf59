"""What a run must know of its inputs before anything is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lepton_pipe.errors import without_secrets
from lepton_pipe.plan import Plan
from lepton_pipe.plan.model import is_copied
from lepton_pipe.store.copying import copyable
from lepton_pipe.store.source import Source


def copies_of(plan: Plan, sources: Mapping[str, Source]) -> dict[tuple[str, int], Sequence[Any]]:
    """Return the codecs of outputs that are inputs as they are stored, by name and level."""
    copied = (a for a in plan.arrays.values() if is_copied(plan.inputs, a, 0))
    found = {(a.name, 0): copyable(sources[a.step]) for a in copied}
    return {name: codecs for name, codecs in found.items() if codecs is not None}


def identities_of(sources: Mapping[str, Source]) -> dict[str, dict[str, Any]]:
    """Return what tells inputs from others, fit to be published: addresses may carry passwords."""
    return {name: _public(_identity(source)) for name, source in sources.items()}


def _identity(source: Source) -> dict[str, Any]:
    identity = source.identity()
    if not source.by_bytes:
        return identity
    # The same bytes at another time are the same input; content keys tell whether they are.
    return {n: v for n, v in identity.items() if n != "mtime_ns"} | {"known_by": "bytes"}


def _public(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {n: without_secrets(v) if isinstance(v, str) else v for n, v in identity.items()}
