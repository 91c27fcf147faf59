"""Tables of a result as files."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lepton_pipe as lp
from lepton_pipe.kernels import label, regionprops
from lepton_pipe.run import results, stage_runner
from lepton_pipe.run.results import write_table

NUMBERS = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8")


@lp.pipeline
def table_of(raw: lp.Image):
    return {"objects": regionprops(label(raw > 100))}


@pytest.mark.parametrize("rows", [0, 1, 7, 3000])
def test_columns_are_what_pyarrow_makes_of_them(rows, tmp_path):
    rng = np.random.default_rng(rows)
    columns = {d: (rng.normal(size=rows) * 50).astype(d) for d in NUMBERS}
    columns["nan"] = np.where(rng.random(rows) < 0.5, np.nan, 1.0)
    columns["flag"] = rng.random(rows) < 0.5
    columns["strided"] = np.arange(3 * rows)[::3]
    columns["foreign"] = np.arange(rows, dtype=">i4")
    columns["name"] = np.array([f"object {i}" for i in range(rows)], dtype=str)
    columns["list"] = list(range(rows))
    columns = {n: c for n, c in columns.items() if rows or n != "list"}
    assert write_table(tmp_path / "t.parquet", columns) == rows
    found = pq.read_table(tmp_path / "t.parquet")
    native = {
        n: np.asarray(c).astype(np.asarray(c).dtype.newbyteorder("=")) for n, c in columns.items()
    }
    expected = pa.table(native)
    assert found.schema == expected.schema
    for name in columns:
        a, b = found[name].to_numpy(), expected[name].to_numpy()
        np.testing.assert_array_equal(a, b)
        assert found[name].null_count == 0


def test_a_table_of_numbers_does_not_load_pandas(tmp_path):
    code = (
        "import sys, pathlib, numpy as np\n"
        "from lepton_pipe.run.results import write_table\n"
        f"write_table(pathlib.Path({str(tmp_path / 't.parquet')!r}), "
        "{'a': np.arange(3), 'b': np.ones(3, 'f4')})\n"
        "sys.exit('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_blocks_held_is_given_back_before_tables_are_packed(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(stage_runner, "give_back", lambda: done.append("given back"))
    plain = results.write_table
    monkeypatch.setattr(results, "write_table", lambda *a: done.append("packed") or plain(*a))
    image = np.pad(np.full((4, 4), 200, np.uint8), 4)
    table_of.plan(raw=image, out=tmp_path / "o", serial=True).run(progress=False)
    assert done[:2] == ["given back", "packed"]
