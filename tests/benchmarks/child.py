"""One run of one candidate, in a process of its own: ``python -m tests.benchmarks.child ...``.

Says on stdout when it is ready, and how long the work took, as lines of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from tests.benchmarks.candidate import Job
from tests.benchmarks.workloads import load


def _say(event: str, **more: Any) -> None:
    print(json.dumps({"event": event, **more}), flush=True)


def main(arguments: list[str]) -> None:
    """Run: workload, candidate, size, home, out, and when the parent started it."""
    workload, candidate, size, home, out, started = arguments
    job = Job.of(size, home, out)
    steps = load(workload).candidates[candidate](job)
    next(steps)
    ready = time.time() - float(started)
    _say("ready", seconds=ready)
    job.clock.start()
    next(steps, None)
    job.clock.stop()
    _say("done", seconds=job.clock.seconds, startup=ready + job.clock.aside)
    next(steps, None)


if __name__ == "__main__":
    main(sys.argv[1:])
