"""How long a run takes that was killed at 90 % and is begun again, and what syncing takes of a run.

``python -m tests.benchmarks.resume`` runs one job from the command line, as a user does: as it is;
without syncing on the way (what is then flushed in the end is flushed in either); and killed with
all its processes (SIGKILL) when it has used nine tenths of the processor time of the first, then
the same command again. Times are those of the process from start to end, import and planning
included. What was resumed must have the bytes of what was not disturbed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import psutil

import lepton_pipe as lp
from lepton_pipe.kernels import gaussian, label, otsu, regionprops
from lepton_pipe.kernels import median as median_filter
from tests.benchmarks import data, machine
from tests.benchmarks.measure import ROOT
from tests.benchmarks.sizes import SIZES
from tests.run.five import fingerprints

KILLED_AT = 0.9
MOST_RESUMED = 0.15
MOST_SYNCING = 0.05
# How often a run is begun that is to be killed, since a quicker one can end before.
_KILLS = 4
_RUN = """
import json, sys, time
from lepton_pipe import cli
from lepton_pipe.run import books

kept = {"syncs": 0, "seconds": 0.0}
sync, tick = books._Syncing._sync, books._Syncing.tick

def measured(self):
    took = sync(self)
    kept["syncs"] += 1
    kept["seconds"] += took
    return took

books._Syncing._sync = measured
if sys.argv[1] == "without":
    books._Syncing.tick = lambda self: None
status = cli.main(sys.argv[2:])
print(json.dumps(kept))
sys.exit(status)
"""


@lp.pipeline
def careful(raw: lp.Image) -> dict[str, lp.Node]:
    """Remove shot noise, smooth, find objects and measure them: hours on a terabyte."""
    even = median_filter(raw, 2)
    light = gaussian(even, sigma=2.0)
    labels = label(light > otsu(light), min_size=64)
    return {"light": light, "labels": labels, "objects": regionprops(labels, raw)}


def main(volume: Path, folder: Path, out: Path, repeats: int) -> None:
    """Measure and write ``resume.md`` and ``resume.json``."""
    os.sync()  # what others have written is not ours to flush
    job = _Job(volume, folder)
    job.whole()  # loads the disk's and the machine's memory
    whole = [job.whole() for _ in range(repeats)]
    full = min(r["cores"] for r in whole)
    resumed = [job.resumed(KILLED_AT * full) for _ in range(repeats)]
    without = [job.whole("without") for _ in range(repeats)]
    figures = {"whole": whole, "resumed": resumed, "without": without}
    found = machine.facts()
    out.mkdir(parents=True, exist_ok=True)
    (out / "resume.json").write_text(json.dumps({"machine": found, **figures}, indent=1) + "\n")
    text = report(found, volume, figures)
    (out / "resume.md").write_text(text)
    print(text)


class _Job:
    """Runs of one pipeline over one image; what they publish is compared and removed."""

    def __init__(self, volume: Path, folder: Path) -> None:
        self._words = ["run", f"{__file__}:careful", f"raw={volume}", f"out={folder / 'o'}"]
        self._folder = folder
        self._bytes: dict[str, str] | None = None

    def whole(self, syncs: str = "with") -> dict[str, Any]:
        """Run from beginning to end; return seconds of it all, and of syncing."""
        return self._ended(self._begun(syncs))

    def resumed(self, after: float) -> dict[str, Any]:
        """Kill a run after some seconds of a core, and return what the next one takes."""
        for _ in range(_KILLS):
            self._kill(after)
            if not (self._folder / "o").exists():
                return self._ended(self._begun("with"))
            shutil.rmtree(self._folder / "o")
        raise SystemExit(f"{_KILLS} runs ended before they were killed: times vary too much")

    def _kill(self, after: float) -> None:
        first, _ = self._begun("with")
        while _cores(psutil.Process(first.pid)) < after and first.poll() is None:
            time.sleep(0.05)
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()

    def _begun(self, syncs: str) -> tuple[subprocess.Popen[str], float]:
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-c", _RUN, syncs, *self._words],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return process, began

    def _ended(self, begun: tuple[subprocess.Popen[str], float]) -> dict[str, Any]:
        process, began = begun
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        said, complained = process.communicate()
        wall = time.monotonic() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cores = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        if process.returncode:
            raise SystemExit(complained)
        published = fingerprints(self._folder / "o")
        if published != (self._bytes or published):
            raise SystemExit("the bytes are not those of the first run")
        self._bytes = published
        shutil.rmtree(self._folder / "o")
        os.sync()
        print(f"{wall:.1f} s, {cores:.1f} s of a core", file=sys.stderr)
        return {"wall": wall, "cores": cores, **json.loads(said.splitlines()[-1])}


def _cores(process: psutil.Process) -> float:
    """Return the seconds of a core that a process and its children have used."""
    used = 0.0
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            used += sum(each.cpu_times()[:2])
    return used


def report(found: dict[str, Any], volume: Path, figures: dict[str, Any]) -> str:
    """Return the table, and whether the promises hold."""
    full, again, without = (
        {of: median(r[of] for r in figures[name]) for of in ("wall", "cores")}
        for name in ("whole", "resumed", "without")
    )
    syncing = median(r["seconds"] / r["wall"] for r in figures["whole"])
    syncs = median(r["syncs"] for r in figures["whole"])
    rows = [
        ("a run", full),
        (f"killed at {KILLED_AT:.0%}, and run again", again),
        ("a run without syncing on the way", without),
    ]
    held = again["wall"] < MOST_RESUMED * full["wall"] and syncing < MOST_SYNCING
    lines = [
        "# Going on",
        "",
        machine.sentence(found),
        "",
        (__doc__ or "").strip(),
        "",
        f"The volume is `{volume.parent.name}`; medians of {len(figures['whole'])} runs each. "
        f"Promised are {MOST_RESUMED:.0%} at most for going on and {MOST_SYNCING:.0%} for "
        f"syncing: {'held' if held else 'NOT held'}.",
        "",
        "| | seconds | of a run | seconds of a core | of a run |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {r['wall']:.1f} | {r['wall'] / full['wall']:.1%} "
            f"| {r['cores']:.1f} | {r['cores'] / full['cores']:.1%} |"
            for name, r in rows
        ),
        "",
        f"Syncing on the way: {syncs:.0f} times, beside the work, {syncing:.1%} of the time.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=list(SIZES), default="4gb")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--data", type=Path, default=Path(tempfile.gettempdir()) / "lepton-benchmarks"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results"))
    given = parser.parse_args()
    home = data.ensure(SIZES[given.size], given.data, ["volume"])
    work = Path(tempfile.mkdtemp(dir=given.data))
    try:
        main(data.place(home, "volume"), work, given.out, given.repeats)
    finally:
        shutil.rmtree(work)
