"""``python -m tests.benchmarks``: measure lepton_pipe beside its rivals, from any checkout."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks import overhead, report, startup, sweeps
from tests.benchmarks.candidate import Job, Workload
from tests.benchmarks.data import ensure
from tests.benchmarks.measure import Run, Runs, measured
from tests.benchmarks.sizes import SIZES, Size
from tests.benchmarks.workloads import NAMES, load

RESULTS = Path(__file__).parent / "results"
LIMIT = 600.0
SLOW = 5.0
MINE = ("ours", "limit", "limit_on_disk")
_OTHERS = {"startup": startup.main, "overhead": overhead.main, "sweeps": sweeps.main}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; 1 when a result of ours, or of the limit, was wrong."""
    parser = _parser()
    args = parser.parse_args(arguments)
    unknown = [n for n in args.what if n not in (*NAMES, *_OTHERS)]
    if unknown:
        parser.error(f"no workload {unknown[0]!r}; there are {', '.join((*NAMES, *_OTHERS))}")
    if args.list:
        return _list()
    others = [n for n in args.what if n in _OTHERS]
    for name in others:
        _OTHERS[name](args.data, args.out)
    names = [n for n in args.what if n not in _OTHERS] or ([] if others else list(NAMES))
    return _workloads(names, args) if names else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "what",
        nargs="*",
        metavar="WORKLOAD",
        help=f"by default all of {', '.join(NAMES)}; or {', '.join(_OTHERS)}",
    )
    parser.add_argument("--size", choices=list(SIZES), default="1gb")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each candidate")
    parser.add_argument("--rivals", nargs="+", help="only these beside ours and limit")
    parser.add_argument("--only-ours", action="store_true", help="no rivals, no limit")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for a candidate")
    parser.add_argument(
        "--slow", type=float, default=SLOW, help="seconds above which a rival runs once"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for table and picture")
    parser.add_argument(
        "--add", action="store_true", help="keep other workloads of the table that is there"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(tempfile.gettempdir()) / "lepton-benchmarks",
        help="folder for inputs and references, kept for the next time",
    )
    parser.add_argument("--list", action="store_true", help="list workloads and candidates")
    return parser


def _list() -> int:
    for name in NAMES:
        workload = load(name)
        print(f"{name:12} {workload.title}: {', '.join(workload.candidates)}")
    return 0


def _workloads(names: Sequence[str], args: argparse.Namespace) -> int:
    size, results = SIZES[args.size], {}
    earlier = report.load(args.out, size) if args.add else {}
    settings = {"repeats": args.repeats, "slow": args.slow, "limit": args.limit}
    report.added(earlier, report.to_json(size, settings, {}))  # refuses before anything is measured
    began = time.monotonic()
    for name in names:
        workload = load(name)
        results[name] = _compare(workload, _chosen(workload, args), size, args)
        # What is there is saved after each workload: a long run may be broken off.
        data = report.added(earlier, report.to_json(size, settings, results))
        paths = report.save(data, args.out)
    print(f"\n{report.markdown(data)}\n{time.monotonic() - began:.0f} s in all")
    print("written:", *(p.name for p in paths))
    mine = [r for found in results.values() for c, r in found.items() if c in MINE]
    return int(any(r.wrong or r.failed for r in mine))


def _chosen(workload: Workload, args: argparse.Namespace) -> list[str]:
    """Return the candidates to run, ours first."""
    if args.only_ours:
        return ["ours"]
    if args.rivals is not None:
        wanted = {*MINE, *args.rivals}
        return [c for c in workload.candidates if c in wanted]
    return [c for c in workload.candidates if c not in workload.extra]


def _compare(
    workload: Workload, candidates: Sequence[str], size: Size, args: argparse.Namespace
) -> dict[str, Runs]:
    """Run all candidates of a workload in turn, again and again."""
    home = ensure(size, args.data, workload.needs)
    want = _reference(workload, size, home)
    passing = home / "passing-run"
    _prime(workload, candidates, args.data, passing)
    found = {c: Runs() for c in candidates}
    for repeat in range(args.repeats):
        for name in candidates:
            if repeat and _once_is_enough(name, found[name], args.slow):
                continue
            shutil.rmtree(passing, ignore_errors=True)
            got = Job.of(size.name, home, passing / "result")
            limit = min(args.limit, workload.limits.get(name, args.limit))
            run = measured(workload.name, name, size.name, home, got.out, limit)
            found[name].runs.append(run)
            if run.seconds is not None and len(found[name].runs) == 1:
                found[name].wrong = _judged(workload, got, want)
            _tell(workload.name, name, run, found[name])
    shutil.rmtree(passing, ignore_errors=True)
    return found


def _reference(workload: Workload, size: Size, home: Path) -> Job:
    """Return a job whose result is the reference, computed unless it is there."""
    want = Job.of(size.name, home, home / "reference" / workload.name)
    if not want.out.exists():
        print(f"{workload.name}: computing the reference", flush=True)
        passing = Job.of(size.name, home, home / "passing-reference" / workload.name)
        shutil.rmtree(passing.out, ignore_errors=True)
        workload.reference(passing)
        want.out.parent.mkdir(parents=True, exist_ok=True)
        passing.out.rename(want.out)
    return want


def _prime(workload: Workload, candidates: Sequence[str], data: Path, passing: Path) -> None:
    """Run ours on tiny data, so that what it compiles is on disk."""
    if "ours" in candidates:
        home = ensure(SIZES["tiny"], data, workload.needs)
        shutil.rmtree(passing, ignore_errors=True)
        measured(workload.name, "ours", "tiny", home, passing / "result", LIMIT)


def _once_is_enough(name: str, runs: Runs, slow: float) -> bool:
    """Tell whether a candidate failed, or is a rival so slow that noise does not matter."""
    first = runs.runs[0].seconds
    return first is None or (name not in MINE and first > slow)


def _judged(workload: Workload, got: Job, want: Job) -> list[str]:
    """Return what is wrong with a result; one that cannot be read is wrong, too."""
    try:
        return workload.check(got, want)
    except (OSError, KeyError, ValueError) as error:
        return [f"cannot be read: {type(error).__name__}: {error}"]


def _tell(workload: str, candidate: str, run: Run, runs: Runs) -> None:
    if run.seconds is None:
        print(f"{workload:12} {candidate:14} {run.failed}", flush=True)
        return
    wrong = f"  WRONG: {'; '.join(runs.wrong)}" if runs.wrong else ""
    print(
        f"{workload:12} {candidate:14} {run.seconds:8.2f} s  start-up {run.startup:5.1f} s  "
        f"peak {run.peak_bytes / 1e6:6.0f} MB{wrong}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
