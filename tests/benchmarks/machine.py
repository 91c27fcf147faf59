"""What the figures were measured on. Names no host, no user and no path."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.candidate import cores

LIBRARIES = (
    "lepton-pipe",
    "dask",
    "distributed",
    "dask-image",
    "numpy",
    "scipy",
    "scikit-image",
    "numba",
    "numcodecs",
    "zarr",
    "tensorstore",
    "ngff-zarr",
    "ome-zarr",
    "tifffile",
)


def facts() -> dict[str, Any]:
    """Return processor, cores, memory, kernel, and versions of Python and libraries."""
    return {
        "processor": _processor(),
        "cores": cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "libraries": {n: v for n in LIBRARIES if (v := _version(n))},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def sentence(found: dict[str, Any]) -> str:
    """Return the facts in a line."""
    libraries = ", ".join(f"{n} {v}" for n, v in found["libraries"].items())
    return (
        f"{found['processor']}, {found['cores']} cores, {found['memory_gib']} GiB, "
        f"{found['kernel']}, Python {found['python']}; {libraries}."
    )
