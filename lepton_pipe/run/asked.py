"""What a run was asked for, as plain data: kept in its ledger for who repairs the result."""

from __future__ import annotations

import base64
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from lepton_pipe.errors import without_secrets
from lepton_pipe.spec import Definition, Spec, is_by_value, plain
from lepton_pipe.store.source import Source

ASKED = "asked"
"""Fact of a ledger: what the run was asked for."""


def asked(
    reference: str | None,
    spec: Spec,
    sources: Mapping[str, Source],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what a run was asked for, as plain data.

    An input that was handed over as an array, or whose address holds a password, is none of it:
    None stands in its place.
    """
    return {
        "pipeline": reference,
        "digest": spec.digest,
        "parameters": {n: plain(v) for n, v in spec.parameters.items()},
        # In the order in which they were given: variants are called by it.
        "swept": [[n, plain(v)] for n, v in spec.swept.items()],
        "images": {n: _opened(s) for n, s in sources.items()},
        "options": dict(options),
    }


def _opened(source: Source) -> dict[str, Any] | None:
    opened = source.opened
    if opened is None or without_secrets(opened["at"]) != opened["at"]:
        return None
    return {n: plain(v) for n, v in opened.items()}


def reference_of(pipeline: Definition) -> str | None:
    """Return what the command line calls a pipeline; None where it cannot be found by that."""
    module = sys.modules.get(pipeline.fn.__module__)
    if module is None or not any(
        isinstance(v, Definition) and v.fn is pipeline.fn for v in vars(module).values()
    ):
        return None
    if module.__name__.startswith("lepton_pipe.pipelines."):
        return pipeline.name
    file = getattr(module, "__file__", None)
    return f"{file}:{pipeline.name}" if file and is_by_value(module.__name__) else None


def from_plain(value: Any) -> Any:
    """Return what `lepton_pipe.spec.canonical.plain` made data of, as far as it can be told."""
    if isinstance(value, list):
        return [from_plain(v) for v in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"float"}:
        return float(value["float"])
    if value.keys() == {"array", "shape", "base64"}:
        data = np.frombuffer(base64.b64decode(value["base64"]), np.dtype(value["array"]))
        return data.reshape(value["shape"])
    return {n: from_plain(v) for n, v in value.items()}
