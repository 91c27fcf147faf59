"""Planned memory against measured: twelve pipelines, three sizes, three budgets.

Each run is a process tree of its own, looked at from outside. The table says, for each, what the
plan stated and what was measured at the worst moment: resident bytes summed over all processes,
and the same with pages that processes share counted once. What blocks take is compared without
what the processes hold anyway: of the stated, the plan's figure for that; of the measured, the
peak of the same pipeline in the same processes over a tiny image, both before results are
published: what that loads to write tables is not there while blocks run.

With `--first` nothing is compiled yet when a run starts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lepton_pipe as lp
from lepton_pipe.errors import MemoryRefusedError
from tests.benchmarks import machine
from tests.benchmarks.measure import ROOT, tree, tree_bytes
from tests.benchmarks.memory_cases import CASES, SIZES, make_input, tiny

MIB = 2**20
BUDGETS = ("512MiB", "1GiB", "4GiB")
SMALL = 32
"""MiB measured for blocks below which a ratio says nothing, and is left out."""
LEGEND = """\
All figures in MiB. Measured: resident bytes summed over all processes; beside it with shared pages
counted once. For blocks: the stated without what the plan counts for the processes themselves, the
measured until blocks have ended without that of the same pipeline in the same processes over a tiny
image; their ratio is left out where blocks take next to nothing."""


@dataclass
class Peak:
    """The worst moment of a process tree, in bytes.

    Attributes
    ----------
    resident
        Summed over all processes: shared pages count once for each. Exact for one process; of
        several, the most that was seen at one look.
    computing
        Of that, the worst moment before all blocks had ended.
    proportional
        With shared pages counted once.
    """

    resident: int = 0
    computing: int = 0
    proportional: int = 0

    def look(self, pid: int, ended: Path, *, closely: bool) -> None:
        """Look at a process and all below it; what it shares is found out `closely` alone.

        Parameters
        ----------
        ended
            What is there as soon as all blocks have ended.
        """
        processes = tree(pid)
        alone = len(processes) == 1
        resident = _most_resident(pid) if alone else sum(map(_resident, processes))
        self.resident = max(self.resident, resident)
        if not ended.exists():
            self.computing = max(self.computing, resident)
        if closely:
            self.proportional = max(self.proportional, tree_bytes(pid))


def _resident(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    return 0


def _most_resident(pid: int) -> int:
    """Return the most that a process has held so far, which the system knows to the moment."""
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(n.split()[1]) for n in lines if n.startswith("VmHWM:")) * 1024
    return 0


@dataclass
class Row:
    """One run of the table, in MiB; `refused` says what memory would have been enough.

    Attributes
    ----------
    stated, resident, computing, proportional
        What the plan said; what was measured, see `Peak`.
    stated_base, base
        What the processes hold without blocks: as the plan says, and measured (computing).
    processes
        That compute blocks, beside the driver; 0 where it computes itself.
    """

    pipeline: str
    size: str
    budget: str
    processes: int = 0
    stated: float = 0.0
    resident: float = 0.0
    computing: float = 0.0
    proportional: float = 0.0
    stated_base: float = 0.0
    base: float = 0.0
    seconds: float = 0.0
    refused: str = ""

    @property
    def share(self) -> float:
        """Stated over measured, without what the processes hold before any block."""
        return (self.stated - self.stated_base) / max(1.0, self.computing - self.base)

    @property
    def kept(self) -> bool:
        """Whether the plan was kept."""
        return self.resident <= self.stated <= _mib(self.budget)


def _mib(budget: str) -> float:
    return float(budget[:-3]) * {"MiB": 1, "GiB": 1024}[budget[-3:]]


def run_one(pipeline: str, source: str, out: str, options: dict[str, Any]) -> None:
    """Run one case in this process, and print what was planned."""
    case = CASES[pipeline]

    def measured(raw: lp.Image) -> dict[str, lp.Node]:
        return case.fn(raw)

    try:
        plan = lp.pipeline(measured).plan(raw=source, out=out, overwrite=True, **options)
    except MemoryRefusedError as error:
        print(json.dumps({"refused": str(error)}), flush=True)
        return
    from lepton_pipe.plan import baseline

    _tell_when_blocks_have_ended(_ended(Path(out).parent))
    resources = plan.data.resources
    found = {"stated": plan.data.peak_bytes / MIB, "stated_base": baseline(resources) / MIB}
    found |= {"processes": resources.workers, "threads": resources.threads}
    print(json.dumps(found | {"seconds": plan.run(progress=False).seconds}), flush=True)


def _ended(home: Path) -> Path:
    return home / "ended"


def _tell_when_blocks_have_ended(file: Path) -> None:
    from lepton_pipe.run.stage_runner import StageRunner

    finish = StageRunner.finish

    def told(runner: StageRunner, *words: Any) -> None:
        file.touch()
        finish(runner, *words)

    StageRunner.finish = told  # type: ignore[method-assign]


LOOKS_PER_SECOND = 50


def look_at(words: list[str], home: Path, *, first: bool) -> tuple[dict[str, Any], Peak]:
    """Run one case; return what it printed and the most memory that its processes held."""
    # What was learned of this machine before does not turn plans.
    env = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(home / "cache")}
    for folder in ("cache", *(["compiled"] if first else [])):
        shutil.rmtree(home / folder, ignore_errors=True)
    if first:
        env["NUMBA_CACHE_DIR"] = str(home / "compiled")
    command = [sys.executable, "-m", "tests.benchmarks.memory", "--one", *words]
    log = home / "stderr.txt"
    _ended(home).unlink(missing_ok=True)
    peak, looks = Peak(), 0
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=env
        )
        while process.poll() is None:
            # A close look stops a process for as long as it takes.
            peak.look(process.pid, _ended(home), closely=looks % 10 == 0)
            looks += 1
            time.sleep(1 / LOOKS_PER_SECOND)
    assert process.stdout is not None
    lines = process.stdout.read().strip().splitlines()
    if process.returncode or not lines:
        raise RuntimeError(f"{words}: {log.read_text().strip().splitlines()[-1:]}")
    return json.loads(lines[-1]), peak


class Table:
    """Runs the cases, and the same over a tiny image for what the processes hold anyway."""

    def __init__(self, home: Path, *, first: bool) -> None:
        self.home, self.first = home, first
        self._bases: dict[tuple[str, int, int], float] = {}

    def rows(self, sizes: list[str], names: list[str], budgets: list[str]) -> Iterator[Row]:
        """Run every case of the table."""
        for name in names:
            for size in sizes:
                source = make_input(self.home, name, CASES[name].shape(SIZES[size]))
                for budget in budgets:
                    yield self.row(name, size, source, budget)

    def row(self, name: str, size: str, source: Path, budget: str) -> Row:
        """Run one case."""
        found, peak = self._look(name, source, {"memory": budget})
        row = Row(name, size, budget, refused=found.get("refused", ""))
        if row.refused:
            return row
        row.resident, row.proportional = peak.resident / MIB, peak.proportional / MIB
        row.computing = peak.computing / MIB
        row.stated, row.stated_base = found["stated"], found["stated_base"]
        row.processes, row.seconds = found["processes"], found["seconds"]
        row.base = self._base(name, row.processes, found["threads"])
        return row

    def _look(
        self, name: str, source: Path, options: dict[str, Any]
    ) -> tuple[dict[str, Any], Peak]:
        words = [name, str(source), str(self.home / "out"), json.dumps(options)]
        return look_at(words, self.home, first=self.first)

    def _base(self, name: str, workers: int, threads: int) -> float:
        key = (name, workers, threads)
        if key not in self._bases:
            options = {"memory": "4GiB"}
            if workers:
                options |= {"workers": workers, "threads": threads}
            _, peak = self._look(name, make_input(self.home, name, tiny(CASES[name])), options)
            self._bases[key] = peak.computing / MIB
        return self._bases[key]


HEADER = """\
| pipeline | input | `--memory` | processes | stated | measured | shared once | stated for blocks \
| measured for blocks | ratio | s |
|---|---|---|---|---|---|---|---|---|---|---|"""


def line(row: Row) -> str:
    """Return a row of the table as Markdown."""
    start = f"| {row.pipeline} | {row.size} | {row.budget} |"
    if row.refused:
        return f"{start} refused | | | | | | | |"
    where = f"{row.processes} + driver" if row.processes else "1"
    over = "" if row.kept else " **over**"
    blocks = row.computing - row.base
    ratio = f"{row.share:.2f}" if blocks >= SMALL else ""
    return (
        f"{start} {where} | {row.stated:.0f} | {row.resident:.0f}{over} | {row.proportional:.0f} "
        f"| {row.stated - row.stated_base:.0f} | {blocks:.0f} "
        f"| {ratio} | {row.seconds:.1f} |"
    )


def table(found: list[Row]) -> str:
    """Return the table as Markdown, all figures in MiB."""
    return "\n".join([HEADER, *map(line, found)])


def main() -> None:
    """Run the table, or one case of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=4, metavar=("PIPELINE", "SOURCE", "OUT", "OPTIONS"))
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--pipelines", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--budgets", nargs="*", default=list(BUDGETS))
    parser.add_argument("--first", action="store_true", help="compile anew in every run")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "lepton-memory")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    chosen = parser.parse_args()
    if chosen.one:
        name, source, out, options = chosen.one
        run_one(name, source, out, json.loads(options))
        return
    chosen.data.mkdir(parents=True, exist_ok=True)
    print(HEADER, flush=True)
    done = []
    for row in Table(chosen.data, first=chosen.first).rows(
        chosen.sizes, chosen.pipelines, chosen.budgets
    ):
        done.append(row)
        print(line(row), flush=True)
        write(chosen.out, done)


def write(out: Path, done: list[Row]) -> None:
    """Write the table, and the figures it is made of; after each run, as all take their time."""
    facts = machine.facts()
    out.mkdir(parents=True, exist_ok=True)
    text = f"{machine.sentence(facts)}\n\n{LEGEND}\n\n{table(done)}\n"
    (out / "memory.md").write_text(text)
    data = {"machine": facts, "rows": [asdict(r) for r in done]}
    (out / "memory.json").write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
