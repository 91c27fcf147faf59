"""What a candidate is: a generator that gets ready, yields, and does the work.

What comes before its first ``yield`` is start-up (imports, a cluster, compiling). Then the clock
runs until it ends or yields again; what follows a second ``yield`` is tidying up.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.arrays import Door, TensorStoreDoor, ZarrDoor
from tests.benchmarks.data import place
from tests.benchmarks.sizes import SIZES, Size


@dataclass
class Clock:
    """Counts seconds of work; some that fall within it can be counted apart."""

    seconds: float = 0.0
    aside: float = 0.0
    _since: float = 0.0

    def start(self) -> None:
        """Begin to count."""
        self._since = time.perf_counter()

    def stop(self) -> None:
        """End; `seconds` is the work alone."""
        self.seconds += time.perf_counter() - self._since - self.aside

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Count what happens within as start-up, not as work."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.aside += time.perf_counter() - began


@dataclass(frozen=True)
class Job:
    """One run of a candidate.

    Attributes
    ----------
    size
        Shapes of the inputs.
    home
        Folder of the inputs.
    out
        Folder of the results, which is not there yet. An image lies in ``out/name/level``, a table
        in ``out/name.npz`` or ``.parquet``, values in ``out/values.json``.
    threads
        Cores to use.
    """

    size: Size
    home: Path
    out: Path
    threads: int
    clock: Clock = field(default_factory=Clock)

    def input(self, name: str) -> Path:
        """Return where an input lies."""
        return place(self.home, name)

    def image(self, name: str, level: int = 0) -> Path:
        """Return where an image's level goes."""
        return self.out / name / str(level)

    def array(self, name: str) -> Any:
        """Return an input that is a small NumPy array."""
        return np.load(self.input(name))

    def save_table(self, name: str, columns: Mapping[str, Any]) -> None:
        """Write a table."""
        self.out.mkdir(parents=True, exist_ok=True)
        np.savez(self.out / f"{name}.npz", **columns)

    def save_values(self, values: Mapping[str, Any]) -> None:
        """Write values."""
        self.out.mkdir(parents=True, exist_ok=True)
        plain = {n: np.asarray(v).tolist() for n, v in values.items()}
        (self.out / "values.json").write_text(json.dumps(plain))

    @staticmethod
    def of(size: str, home: str | Path, out: str | Path) -> Job:
        """Return a job on this machine."""
        return Job(SIZES[size], Path(home), Path(out), cores())


Candidate = Callable[[Job], Iterator[None]]
Work = Callable[[Job], None]
DoorWork = Callable[[Job, Door, ThreadPoolExecutor], None]


@dataclass(frozen=True)
class Workload:
    """A task that every candidate does, and how its result is judged.

    Attributes
    ----------
    needs
        Inputs, as `tests.benchmarks.data.ensure` names them.
    candidates
        By name; ``ours`` and ``limit`` are always there.
    reference
        Computes the same by plain NumPy and SciPy.
    check
        Compares a result (first) with the reference, and returns what is wrong.
    limits
        Seconds after which a candidate is stopped, where it is not the usual.
    extra
        Candidates that only run when they are named.
    """

    name: str
    title: str
    needs: tuple[str, ...]
    candidates: Mapping[str, Candidate]
    reference: Work
    check: Callable[[Job, Job], list[str]]
    limits: Mapping[str, float] = field(default_factory=dict)
    extra: tuple[str, ...] = ("whole", "dask_threads")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def warm_imports() -> None:
    """Import what rivals use, so that it counts as start-up."""
    for name in ("dask.array", "scipy.ndimage", "zarr", "numcodecs.blosc", "scipy.sparse.csgraph"):
        importlib.import_module(name)


# -- kinds of candidates --------------------------------------------------------------------


def ours(pipeline: str, **inputs: str) -> Candidate:
    """Return lepton_pipe's candidate: a pipeline of `tests.benchmarks.pipelines`, as users run it.

    Starting and stopping the cluster is start-up, and so are imports and compiling, as for all
    others; planning, checksums, flushing to disk and publishing are work.

    Parameters
    ----------
    **inputs
        Name of the input for each image of the pipeline.
    """

    def candidate(job: Job) -> Iterator[None]:
        pipelines = importlib.import_module("tests.benchmarks.pipelines")
        importlib.import_module("lepton_pipe.run.driver")
        cluster = importlib.import_module("lepton_pipe.run.cluster")
        images = {n: pipelines.opened(i, job.input(i)) for n, i in inputs.items()}
        options = pipelines.options(pipeline, job.size.volume)
        pipelines.warm(pipeline, inputs)
        with cluster_apart(cluster, job.clock, lambda: pipelines.warm(pipeline, inputs)):
            yield
            plan = getattr(pipelines, pipeline).plan(out=job.out, **images, **options)
            plan.run(progress=False)

    return candidate


@contextmanager
def cluster_apart(
    module: Any, clock: Clock, warm: Callable[[], None] | None = None
) -> Iterator[None]:
    """Have the run's cluster start and stop beside the clock, and its workers get warm."""
    start = module.local_client

    @contextmanager
    def timed(*args: Any, **kwargs: Any) -> Iterator[Any]:
        context = start(*args, **kwargs)
        with clock.apart():
            client = context.__enter__()
            if warm is not None:
                client.run(warm)
        try:
            yield client
        except BaseException as error:
            if not context.__exit__(type(error), error, error.__traceback__):
                raise
        else:
            with clock.apart():
                context.__exit__(None, None, None)

    module.local_client = timed
    try:
        yield
    finally:
        module.local_client = start


def on_cluster(work: Work) -> Candidate:
    """Return a candidate on a LocalCluster, a process for each core, settings as they come."""

    def candidate(job: Job) -> Iterator[None]:
        from distributed import Client, LocalCluster

        warm_imports()
        cluster = LocalCluster(
            n_workers=job.threads,
            threads_per_worker=1,
            dashboard_address=":0",
            local_directory=str(job.out.parent / "dask"),
        )
        with cluster, Client(cluster) as client:
            client.run(warm_imports)
            yield
            work(job)
            yield

    return candidate


def on_threads(work: Work) -> Candidate:
    """Return the same on Dask's threaded scheduler."""

    def candidate(job: Job) -> Iterator[None]:
        import dask

        warm_imports()
        with dask.config.set(scheduler="threads", num_workers=job.threads):
            yield
            work(job)

    return candidate


def through_zarr(work: DoorWork) -> Candidate:
    """Return a loop over blocks in threads that reads and writes with zarr-python."""
    return _loop(lambda _: ZarrDoor(), work)


def through_tensorstore(work: DoorWork) -> Candidate:
    """Return the same with TensorStore, its cache as large as a quarter of a GiB for each core.

    That is enough to decode each chunk about once, in the order of the loop.
    """
    return _loop(lambda job: TensorStoreDoor(job.threads << 29), work)


def _loop(door: Callable[[Job], Door], work: DoorWork) -> Candidate:
    def candidate(job: Job) -> Iterator[None]:
        warm_imports()
        with ThreadPoolExecutor(job.threads) as pool:
            opened = door(job)
            yield
            work(job, opened, pool)

    return candidate


def whole_array(work: Work) -> Candidate:
    """Return a candidate that has the whole image in memory."""

    def candidate(job: Job) -> Iterator[None]:
        warm_imports()
        importlib.import_module("skimage.filters")
        importlib.import_module("skimage.measure")
        yield
        work(job)

    return candidate


def by_hand(warm: Callable[[], None], work: Work) -> Candidate:
    """Return a hand-written limit; `warm` compiles what it needs."""

    def candidate(job: Job) -> Iterator[None]:
        importlib.import_module("zarr")
        warm()
        yield
        work(job)

    return candidate


def by_hand_on_disk(warm: Callable[[], None], work: Work) -> Candidate:
    """Return the same, its result flushed: what ours writes survives a power cut, too."""

    def candidate(job: Job) -> Iterator[None]:
        yield from by_hand(warm, work)(job)
        flush(job.out)

    return candidate


def flush(folder: Path) -> None:
    """Return when the file system that holds a folder is on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
            raise OSError(ctypes.get_errno(), "syncfs failed", str(folder))
    finally:
        os.close(descriptor)


def standard(dask: Work, loop: DoorWork) -> dict[str, Candidate]:
    """Return the rivals that every workload has, from one work on Dask and one loop."""
    return {
        "dask_array": on_cluster(dask),
        "dask_threads": on_threads(dask),
        "block_loop": through_zarr(loop),
        "tensorstore": through_tensorstore(loop),
    }
