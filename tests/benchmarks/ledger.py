"""What the ledger takes for each block, how large it grows, and how soon a run resumes with it.

``python -m tests.benchmarks.ledger --rows 10000000`` records rows in batches, as a driver does:
blocks end nearly in order, each row has a key, one unit, and a partial in a journal. Then another
process opens the ledger, loads what is done and compares all keys, as a run that is resumed does.
Nothing but the ledger is at work. Seconds are those of a core, since other processes may run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from lepton_pipe.ledger.journal import Journal, Place, Receipt, Unit, append
from lepton_pipe.ledger.ledger import Ledger, Row
from tests.benchmarks import machine
from tests.benchmarks.measure import ROOT

BATCH = 1000
MARK_EVERY = 30
"""Batches between marks: half a minute of a run of 1000 blocks a second."""
AHEAD = 2000
"""By how many blocks one may end before another that comes first."""
PARTIAL = bytes(300)
MOST_RECEIPTS = 1_000_000


def main(rows: int, folder: Path, out: Path) -> None:
    """Measure and write ``ledger.md`` and ``ledger.json``."""
    figures = {
        "rows": rows,
        **recorded(rows, folder),
        **journaled(min(rows, MOST_RECEIPTS), folder),
    }
    figures |= {"resume": in_a_process("resume", rows, folder)}
    figures |= {"all_rows": in_a_process("all_rows", rows, folder)}
    found = machine.facts()
    out.mkdir(parents=True, exist_ok=True)
    (out / "ledger.json").write_text(json.dumps({"machine": found, **figures}, indent=1) + "\n")
    text = report(found, figures)
    (out / "ledger.md").write_text(text)
    print(text)


# -- what a run does ------------------------------------------------------------------------


def keys_of(rows: int) -> np.ndarray:
    """Return a key for each block."""
    return np.frombuffer(np.random.default_rng(1).bytes(16 * rows), "V16")


def batches(rows: int) -> Iterator[np.ndarray]:
    """Yield block numbers in the order in which they end."""
    rng = np.random.default_rng(2)
    order = np.argsort(np.arange(rows) + AHEAD * rng.random(rows))
    for start in range(0, rows, BATCH):
        yield order[start : start + BATCH]


def recorded(rows: int, folder: Path) -> dict[str, Any]:
    """Record all rows, and return what that took."""
    keys = keys_of(rows)
    path = folder / "ledger.sqlite"
    ledger = Ledger.open(path)
    ledger.begin_stage(0, "stage", rows, bytes(16))
    recording, marking, marks, log = 0.0, 0.0, 0, 0
    for number, blocks in enumerate(batches(rows)):
        batch = [_row(int(b), keys[b].tobytes()) for b in blocks]
        recording += seconds(lambda batch=batch, n=number: ledger.record(0, batch, {"a.log": n}))
        if number % MARK_EVERY == MARK_EVERY - 1:
            log = max(log, path.with_name(f"{path.name}-wal").stat().st_size)
            marking += seconds(ledger.mark_durable)
            marks += 1
    ledger.mark_durable()
    closing = seconds(ledger.close)
    return {
        "record_us": 1e6 * recording / rows,
        "marks": marks,
        "mark_us": 1e6 * marking / rows,
        "close_s": closing,
        "file_bytes": path.stat().st_size,
        "log_bytes": log,
    }


def _row(block: int, key: bytes) -> Row:
    unit = Unit(0, block, 1_500_000 + block % 99_991, block * 2_654_435_761 % 2**32)
    return Row(block, key, (unit,), Place(f"{block % 16}.log", 400 * block, 400))


def journaled(rows: int, folder: Path) -> dict[str, Any]:
    """Append receipts, as one worker, and find them again."""
    where = folder / "journal"
    key, receipts = bytes(16), iter(range(rows))

    def write() -> None:
        for block in receipts:
            append(where, Receipt(block, (Unit(0, block, 1_500_000, 5),), PARTIAL, key))

    def read() -> None:
        while journal.new(most=100_000):
            continue

    writing = seconds(write)
    journal = Journal(where)
    reading = seconds(read)
    size = sum(p.stat().st_size for p in where.iterdir())
    return {
        "append_us": 1e6 * writing / rows,
        "find_us": 1e6 * reading / rows,
        "receipt_bytes": size / rows - len(PARTIAL),
    }


# -- what a later run does ------------------------------------------------------------------


def resume(rows: int, folder: Path) -> dict[str, float]:
    """Open the ledger and find out which blocks have to run."""
    keys = keys_of(rows)
    before = _resident()
    found: list[Any] = []
    opening = seconds(lambda: found.append(Ledger.open(folder / "ledger.sqlite")))
    loading = seconds(lambda: found.append(found[0].done(0)))
    comparing = seconds(lambda: found.append(found[1].same(keys)))
    assert found[2].all() and found[1].durable.all()
    return {
        "open_s": opening,
        "load_s": loading,
        "compare_s": comparing,
        "memory_bytes": _resident() - before,
    }


def all_rows(rows: int, folder: Path) -> dict[str, float]:
    """Go through all rows with their units, as `verify` does; count them, as `status` does."""
    with Ledger.open(folder / "ledger.sqlite", readonly=True) as ledger:
        counting = seconds(lambda: ledger.counts(0))
        reading = seconds(lambda: sum(1 for _ in ledger.rows(0)))
    return {"count_s": counting, "row_us": 1e6 * reading / rows}


def in_a_process(what: str, rows: int, folder: Path) -> dict[str, float]:
    """Return the figures that one of these functions gives in a process of its own."""
    arguments = ["--rows", str(rows), "--only", what, "--folder", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.ledger", *arguments],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
    )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


def seconds(act: Callable[[], Any]) -> float:
    """Return the seconds of a core that something takes in this thread."""
    began = time.thread_time()
    act()
    return time.thread_time() - began


# -- saying so ------------------------------------------------------------------------------


def report(found: dict[str, Any], figures: dict[str, Any]) -> str:
    """Return a table of the figures."""
    rows, later, every = figures["rows"], figures["resume"], figures["all_rows"]
    lines = [
        ("a row recorded, in batches of 1000", f"{figures['record_us']:.1f} µs"),
        (f"marking rows durable, {figures['marks']} times, for each row", _us(figures["mark_us"])),
        ("the ledger, for each row", f"{figures['file_bytes'] / rows:.0f} bytes"),
        ("the ledger", _mb(figures["file_bytes"])),
        ("its log, at most, between marks", _mb(figures["log_bytes"])),
        ("closing it as a single file", f"{figures['close_s']:.2f} s"),
        ("opening it to resume, all pages looked at", f"{later['open_s']:.1f} s"),
        ("loading the keys of all blocks", f"{later['load_s']:.1f} s"),
        ("comparing them with those of a plan", f"{later['compare_s']:.2f} s"),
        ("memory that this leaves in use", _mb(later["memory_bytes"])),
        ("counting what is done (`status`)", f"{every['count_s']:.2f} s"),
        ("a row read with its units and checksum", _us(every["row_us"])),
        ("a receipt appended by a worker", _us(figures["append_us"])),
        ("a receipt found by the driver", _us(figures["find_us"])),
        ("a receipt without its partial", f"{figures['receipt_bytes']:.0f} bytes"),
    ]
    table = [f"| {name} | {figure} |" for name, figure in lines]
    head = [
        "# The ledger",
        "",
        machine.sentence(found),
        "",
        f"{rows:,} blocks of one stage, each with a key, one unit, and a partial of "
        f"{len(PARTIAL)} bytes in a journal. They end up to {AHEAD} blocks out of order; every "
        f"{MARK_EVERY * BATCH:,} rows are marked durable (the syncing of the data itself is not "
        "measured here). Times are seconds of one core.",
        "",
        "| | |",
        "|---|---|",
    ]
    return "\n".join([*head, *table]) + "\n"


def _us(figure: float) -> str:
    return f"{figure:.1f} µs"


def _mb(size: float) -> str:
    return f"{size / 1e6:.0f} MB"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where to work; by default a new one")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results"))
    parser.add_argument("--only", choices=["resume", "all_rows"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(
            json.dumps(
                {"resume": resume, "all_rows": all_rows}[given.only](given.rows, given.folder)
            )
        )
    else:
        work = Path(tempfile.mkdtemp(dir=given.folder))
        try:
            main(given.rows, work, given.out)
        finally:
            shutil.rmtree(work)
