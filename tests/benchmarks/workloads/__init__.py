"""One file for each workload: its candidates, its reference, and how results are judged."""

from __future__ import annotations

from importlib import import_module

from tests.benchmarks.candidate import Workload

NAMES = (
    "smooth",
    "pyramid",
    "reduce",
    "rechunk",
    "projection",
    "table",
    "files",
    "morphology",
    "median",
    "sweep",
    "segment",
    "slide",
)


def load(name: str) -> Workload:
    """Return a workload by name."""
    workload: Workload = import_module(f"tests.benchmarks.workloads.{name}").WORKLOAD
    return workload
