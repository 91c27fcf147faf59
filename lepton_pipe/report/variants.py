"""The variants of a sweep beside each other: as records in a file, and as a table for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from lepton_pipe.report.plan_text import count, table_text
from lepton_pipe.spec import value_text, variants

COMPARISON = "sweep.json"
"""File of a sweep's result that lists its variants, one record for each."""

Outputs = Mapping[str, Mapping[str, Any]]


def compared(
    swept: Mapping[str, tuple[Any, ...]], outputs: Outputs, values: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return a record of each variant: its folder, parameters, numbers, and rows of its tables.

    A record is flat, so that whoever reads tables reads it as the row of one.

    Parameters
    ----------
    swept
        Values that were swept over, by the parameter's name.
    outputs, values
        Of the report; values as JSON data.
    """
    return [
        {
            "folder": variant,
            **{n: _flat(n, v) for n, v in parameters.items()},
            **dict(_columns(variant, swept, outputs, values)),
        }
        for variant, parameters in variants(swept).items()
    ]


def _flat(name: str, value: Any) -> Any:
    return value_text(name, value) if isinstance(value, (tuple, list)) else value


def _columns(
    variant: str, swept: Mapping[str, Any], outputs: Outputs, values: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    for name, output in outputs.items():
        if not name.startswith(f"{variant}/"):
            continue
        column = name.removeprefix(f"{variant}/")
        if output["kind"] == "table":
            yield f"{column}_rows", output["rows"]
        elif output["kind"] == "value" and not isinstance(values[name], list):
            yield f"{column}_found" if column in swept else column, values[name]


def folders_of(outputs: Outputs) -> dict[str, dict[str, str]]:
    """Return the outputs of each folder by their names in it; none where folders are not alike."""
    found: dict[str, dict[str, str]] = {}
    for name in outputs:
        folder, _, last = name.rpartition("/")
        found.setdefault(folder, {})[last] = name
    alike = len({tuple(inner) for inner in found.values()}) == 1
    return found if alike and len(found) > 1 else {}


def folder_lines(
    folders: Mapping[str, Mapping[str, str]],
    outputs: Outputs,
    told: Mapping[str, str],
    brief: Mapping[str, str],
) -> list[str]:
    """Return what folders that are alike hold, for people: what they have in common, then a table.

    Parameters
    ----------
    folders
        See `folders_of`.
    told
        What is said of an output that is the same in each folder, by its name.
    brief
        What is said of it in a cell of the table.
    """
    first, *_ = folders.values()
    lines = [f"  {count(len(folders), 'folder')}, in each"]
    lines += [f"    {last}: {told[name]}" for last, name in first.items()]
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("folder", overflow="fold")
    columns = [n for n in first if _is_compared([outputs[i[n]] for i in folders.values()])]
    for name in columns:
        table.add_column(name, justify="right")
    for folder, inner in folders.items():
        table.add_row(folder, *(brief[inner[n]] for n in columns))
    return [*lines, *(f"  {line}".rstrip() for line in table_text(table).splitlines())]


def _is_compared(alike: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether outputs of one name are worth a column: images that are alike are not."""
    first = alike[0]
    return first["kind"] in ("table", "value") or any(o["shape"] != first["shape"] for o in alike)
