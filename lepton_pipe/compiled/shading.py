"""Division by a surface of second order, multiplication, and sums over the cells of a grid.

Volumes have the shape ``(n, rows, columns)`` and are contiguous. Divisions are `numpy.divide`'s:
Python's own would look for zeros, one by one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_pipe.compiled import jit


@jit
def divide_by_surface(
    volume: Any, dark: Any, y: Any, of_y: Any, yx: Any, of_x: Any, floor: Any, out: Any
) -> None:
    """Write ``(volume - dark) / max(y * yx + of_y + of_x, floor)``, in the dtype of `out`.

    Parameters
    ----------
    y, of_y
        A number for each row.
    yx, of_x
        A number for each column.
    """
    for n in range(volume.shape[0]):
        for j in range(volume.shape[1]):
            for i in range(volume.shape[2]):
                surface = y[j] * yx[i]
                surface += of_y[j]
                surface += of_x[i]
                surface = surface if surface > floor else floor
                out[n, j, i] = np.divide(out.dtype.type(volume[n, j, i]) - dark, surface)


@jit
def multiply_less_dark(volume: Any, dark: Any, gain: Any, out: Any) -> None:
    """Write ``(volume - dark) * gain``, in the dtype of `out`.

    Parameters
    ----------
    dark, gain
        Of the dtype of `out`: as many planes as `volume`, or one for all of them; of rows
        likewise.
    """
    for n in range(volume.shape[0]):
        darks = dark[n] if dark.shape[0] > 1 else dark[0]
        gains = gain[n] if gain.shape[0] > 1 else gain[0]
        for j in range(volume.shape[1]):
            less = darks[j] if darks.shape[0] > 1 else darks[0]
            by = gains[j] if gains.shape[0] > 1 else gains[0]
            for i in range(volume.shape[2]):
                out[n, j, i] = (out.dtype.type(volume[n, j, i]) - less[i]) * by[i]


@jit
def _flush(line: Any, cells: Any, total: Any) -> None:
    """Add a line of sums to its cells, and clear it."""
    here = line[0] - line[0]
    for i in range(line.size):
        here += line[i]
        line[i] = 0
        if i + 1 == line.size or cells[i + 1] != cells[i]:
            total[cells[i]] += here
            here = line[i]


@jit
def sum_cells(volume: Any, rows: Any, columns: Any, total: Any) -> None:
    """Add the voxels of integers to the cells that they lie in.

    Parameters
    ----------
    rows, columns
        The cell of each row and column, in ascending order.
    total
        Sums of all cells, shape ``(cells_y, cells_x)``.
    """
    line = np.zeros(columns.size, total.dtype)
    for n in range(volume.shape[0]):
        for j in range(rows.size):
            for i in range(columns.size):
                line[i] += volume[n, j, i]
            if j + 1 == rows.size or rows[j + 1] != rows[j]:
                _flush(line, columns, total[rows[j]])


@jit
def sum_finite_cells(volume: Any, rows: Any, columns: Any, total: Any, count: Any) -> None:
    """Add the finite voxels of floats to the cells that they lie in, and their number."""
    line = np.zeros(columns.size, total.dtype)
    found = np.zeros(columns.size, count.dtype)
    for n in range(volume.shape[0]):
        for j in range(rows.size):
            for i in range(columns.size):
                value = volume[n, j, i]
                finite = value - value == 0
                line[i] += value if finite else 0.0
                found[i] += finite
            if j + 1 == rows.size or rows[j + 1] != rows[j]:
                _flush(line, columns, total[rows[j]])
                _flush(found, columns, count[rows[j]])
