"""Write what is not an image: tables, values, and the record of the run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from lepton_pipe.ledger import KNOWN
from lepton_pipe.ledger.keys_recipe import installed_version
from lepton_pipe.plan import Plan
from lepton_pipe.report.quarantine import QUARANTINE
from lepton_pipe.report.report import LACKING, Report, value_json
from lepton_pipe.report.variants import COMPARISON, compared
from lepton_pipe.run.quarantine import Quarantine
from lepton_pipe.spec import ImageType, TableType
from lepton_pipe.store.open import MARKER

RECORD_FORMAT = 1
VALUES = "values.json"
_LIBRARIES = ("lepton-pipe", "dask", "distributed", "numpy", "scipy", "scikit-image", "zarr")
_NUMPY = (np.generic, np.ndarray)
_NESTED = {dict, list, tuple, np.ndarray}


class Results:
    """Writes what is published beside the chunks of images, and tells of it in the report.

    Parameters
    ----------
    folder
        The staging folder.
    """

    def __init__(self, plan: Plan, folder: Path, report: Report) -> None:
        self._plan, self._folder, self._report = plan, folder, report

    def clear(self) -> None:
        """Remove what is not published: scratch, and what a run left that was stopped."""
        images = (name for name, array in self._plan.arrays.items() if array.output)
        self._clear(self._folder, {self._folder / name for name in (KNOWN, *images)})

    def _clear(self, folder: Path, kept: Collection[Path]) -> None:
        above = {parent for path in kept for parent in path.parents}
        for path in [p for p in folder.iterdir() if p not in kept]:
            if path in above:
                self._clear(path, kept)
            elif path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        for name, array in self._plan.arrays.items():
            if array.output:
                _clear_image(self._folder / name, len(array.levels))

    def write(self, values: Mapping[str, Any], quarantine: Quarantine) -> None:
        """Write tables, values, and the list of what is lacking."""
        for name, step_id in self._plan.spec.outputs.items():
            (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
            self._write_output(name, step_id, values)
        self._write_quarantine(quarantine)
        self._write_values()

    def _write_output(self, name: str, step_id: str, values: Mapping[str, Any]) -> None:
        type_, outputs = self._plan.spec[step_id].type, self._report.outputs
        if isinstance(type_, ImageType):
            levels = self._plan.arrays[name].levels
            kept = {
                "path": name,
                "shape": list(type_.grid.shape),
                "chunks": list(levels[0].chunks),
                "levels": len(levels),
            }
            outputs[name] = {"kind": type_.kind, **kept, "dtype": type_.dtype.name}
        elif isinstance(type_, TableType):
            rows = write_table(self._folder / f"{name}.parquet", values[step_id])
            outputs[name] = {"kind": "table", "path": f"{name}.parquet", "rows": rows}
        else:
            self._report.values[name] = values[step_id]
            outputs[name] = {"kind": "value", "path": str(PurePosixPath(name).parent / VALUES)}

    def _write_values(self) -> None:
        outputs = self._report.outputs
        plain = {n: value_json(v) for n, v in self._report.values.items()}
        files: dict[str, dict[str, Any]] = {}
        for name, value in plain.items():
            files.setdefault(outputs[name]["path"], {})[name.rpartition("/")[2]] = value
        for path, found in files.items():
            write_json(self._folder / path, found)
        if swept := self._plan.pipeline.swept:
            write_json(self._folder / COMPARISON, compared(swept, outputs, plain))

    def _write_quarantine(self, quarantine: Quarantine) -> None:
        self._report.quarantine = list(quarantine)
        if self._report.quarantine:
            self._report.left_out = quarantine.left_out
            listed = {
                "on_error": quarantine.on_error,
                "quarantined": [q.to_json() for q in self._report.quarantine],
                "left_out": self._report.left_out,
            }
            write_json(self._folder / QUARANTINE, listed)

    def write_record(self, identities: Mapping[str, Any]) -> None:
        """Write the record of the run, with what was measured."""
        measured = self._report.to_json()
        del measured["out"]
        lacking = {n: measured.pop(n) for n in LACKING if n in measured}
        made = {**record(self._plan, identities), "measured": measured, **lacking}
        write_json(self._folder / MARKER, made)


def _clear_image(folder: Path, levels: int) -> None:
    """Remove what is no part of an image: files of others, carried over by a run that was killed.

    Chunks are not looked through: there may be millions.
    """
    parts = {"zarr.json", *(str(level) for level in range(levels))}
    found = [p for p in folder.iterdir() if p.name not in parts]
    for level in range(levels):
        found += [p for p in (folder / str(level)).iterdir() if p.name not in ("zarr.json", "c")]
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def record(plan: Plan, identities: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a result is made from, as plain data.

    Parameters
    ----------
    identities
        Of the input images, by name.
    """
    return {
        "format": RECORD_FORMAT,
        "pipeline": plan.pipeline.to_json(),
        "digest": plan.pipeline.digest,
        "inputs": dict(identities),
        "versions": library_versions(),
    }


def write_table(path: Path, columns: Mapping[str, Any]) -> int:
    """Write a table as Parquet and return its number of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: _column(np.asarray(column)) for name, column in columns.items()})
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)
    return int(table.num_rows)


def _column(array: np.ndarray[Any, Any]) -> Any:
    """Return an array as a column; numbers without a copy.

    ``pyarrow.array`` asks whether it was given something of pandas, and loads that to find out,
    which takes as long as all the rest of a small run's writing.
    """
    import pyarrow as pa

    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.kind not in "iuf":
        return pa.array(array)
    buffer = pa.py_buffer(np.ascontiguousarray(array))
    return pa.Array.from_buffers(pa.from_numpy_dtype(array.dtype), array.size, [None, buffer])


def write_json(path: Path, data: Any) -> None:
    """Write plain data for people and programs alike; a list of plain values takes one line."""
    path.write_text(_json_text(data, "\n") + "\n")


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that results may depend on."""
    # Unknown is what runs from a source tree that is not installed.
    return {name: installed_version(name) or "unknown" for name in _LIBRARIES}


def _json_text(data: Any, line: str) -> str:
    """Return data as JSON, of which each line begins with `line`.

    Lists of numbers go to the encoder in one piece: a histogram of 65,536 bins would be as many
    lines, and take longer than all else that is written.
    """
    inner, value = f"{line}  ", _plain(data) if isinstance(data, _NUMPY) else data
    if isinstance(value, dict) and value:
        parts = [f"{json.dumps(str(n))}: {_json_text(v, inner)}" for n, v in value.items()]
        return f"{{{inner}{f',{inner}'.join(parts)}{line}}}"
    if isinstance(value, list | tuple) and not _NESTED.isdisjoint(map(type, value)):
        return f"[{inner}{f',{inner}'.join(_json_text(v, inner) for v in value)}{line}]"
    return json.dumps(value, allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, _NUMPY):
        return value_json(value.tolist())
    raise TypeError(f"{type(value).__name__} is no JSON data")
