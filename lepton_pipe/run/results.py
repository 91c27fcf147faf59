"""Write what is not an image: tables, values, and the record of the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from lepton_pipe.report.report import value_json

RECORD_FORMAT = 1
_LIBRARIES = ("lepton-pipe", "dask", "distributed", "numpy", "scipy", "scikit-image", "zarr")


def write_table(path: Path, columns: Mapping[str, Any]) -> int:
    """Write a table as Parquet and return its number of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: np.asarray(column) for name, column in columns.items()})
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)
    return int(table.num_rows)


def write_json(path: Path, data: Any) -> None:
    """Write plain data for people and programs alike."""
    path.write_text(json.dumps(data, indent=2, allow_nan=False, default=_plain) + "\n")


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that results may depend on."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a source tree that is not installed
            found[name] = "unknown"
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value_json(value.tolist())
    raise TypeError(f"{type(value).__name__} is no JSON data")
