"""The face in Python: pipelines that can be called, planned and run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_pipe.device import DeviceChoice, choose_device
from lepton_pipe.errors import RefusedError, UsageError, without_secrets
from lepton_pipe.spec import Definition, Node, Spec, evaluate

if TYPE_CHECKING:
    from lepton_pipe import plan as plans
    from lepton_pipe.report.report import Report
    from lepton_pipe.store.source import Source

# Words of the command line that no pipeline may use for an image or parameter of its own.
RESERVED = ("json", "help", "part")
RUN_OPTIONS = ("out", "memory", "workers", "threads", "device", "serial", "overwrite", "scheduler")


@dataclass(frozen=True)
class RunOptions:
    """What a run may use and where its results go.

    Attributes
    ----------
    memory
        For the whole run, such as ``"8GiB"``; by default a share of what is free.
    workers, threads
        Worker processes and threads in each; by default all cores.
    device
        ``"gpu"``, ``"cpu"``, or ``"auto"``: the GPU where there is one.
    serial
        Run in this process, block after block, without Dask.
    overwrite
        Replace an output that is there, once the new one is whole.
    scheduler
        Address of a running Dask scheduler to use instead of a local cluster.
    """

    memory: str | int | None = None
    workers: int | None = None
    threads: int | None = None
    device: DeviceChoice = "auto"
    serial: bool = False
    overwrite: bool = False
    scheduler: str | None = None


class Pipeline(Definition):
    """A pipeline. Call it on arrays to compute now, on nodes to use it inside another pipeline."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        super().__init__(fn)
        taken = [n for n in (*self.images, *self.parameters) if n in (*RUN_OPTIONS, *RESERVED)]
        if taken:
            raise UsageError(
                f"pipeline {self.name}: {taken[0]!r} is the name of an option of every run; call "
                "the parameter something else"
            )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the outputs of whole arrays in memory.

        Returns
        -------
        dict or array
            By name; just the output where the pipeline returns a single one. Images are arrays,
            values are numbers, tables are mappings from column names to arrays.
        """
        if any(isinstance(a, Node) for a in (*args, *kwargs.values())):
            return self.fn(*args, **kwargs)
        images, parameters = self.split(args, kwargs)
        sources = open_images(images)
        spec = self.bind({n: s.type for n, s in sources.items()}, parameters)
        results = evaluate(spec, {n: s.read(s.type.grid.region) for n, s in sources.items()})
        return results[self.name] if list(results) == [self.name] else results

    def plan(
        self,
        *,
        out: str | Path,
        memory: str | int | None = None,
        workers: int | None = None,
        threads: int | None = None,
        device: DeviceChoice = "auto",
        serial: bool = False,
        overwrite: bool = False,
        scheduler: str | None = None,
        **arguments: Any,
    ) -> Plan:
        """Plan a run over images of any size; computes nothing and writes nothing.

        Parameters
        ----------
        out
            Directory to publish the results in.
        memory, workers, threads, device, serial, overwrite, scheduler
            See `RunOptions`.
        **arguments
            The pipeline's images (paths, URLs, arrays, or `open_image`) and parameters.

        Raises
        ------
        SpecError
            When the pipeline does not fit its images or parameters; names every problem.
        InputError
            When an image cannot be read.
        RefusedError
            When the run could not end well: too little memory, the output exists.
        """
        images, parameters = self.split((), arguments)
        options = RunOptions(memory, workers, threads, device, serial, overwrite, scheduler)
        sources = open_images(images)
        spec = self.bind({n: s.type for n, s in sources.items()}, parameters)
        return Plan(spec, sources, out, options)


def pipeline(fn: Callable[..., Any]) -> Pipeline:
    """Make a function of images and typed parameters a pipeline.

    The function is called once with images that hold no data, and describes by calling kernels
    what is to be computed. It returns one image, value or table, or a dict of them by name.

    Examples
    --------
    >>> @lp.pipeline
    ... def cells(raw: lp.Image, *, sigma: float = 2.0):
    ...     smooth = gaussian(raw, sigma=sigma)
    ...     return {"cells": label(smooth > otsu(smooth))}
    """
    return Pipeline(fn)


def open_image(
    what: Any,
    *,
    level: int | None = None,
    axes: str | None = None,
    scale: Any = None,
    unit: Any = None,
) -> Source:
    """Open an image as input, saying what its file does not.

    Parameters
    ----------
    what
        A path (zarr, OME-Zarr, TIFF, .npy, PNG, JPEG), a folder or glob of planes, a URL, or an
        array.
    level
        Scale level of a pyramid; 0 is the finest.
    axes
        Letters of ``tczyx``, as stored.
    scale, unit
        Size of a voxel, and its unit, of the spatial axes.

    Raises
    ------
    InputError
        When no image can be read from it.
    """
    from lepton_pipe.store import open_source

    return open_source(what, level=level, axes=axes, scale=scale, unit=unit)


def open_images(images: Mapping[str, Any]) -> dict[str, Source]:
    """Open the images of a pipeline, by name."""
    return {name: open_image(what) for name, what in images.items()}


class Plan:
    """What a run will do: print it, compare it, run it.

    Attributes
    ----------
    spec
        The pipeline, bound to its images and parameters.
    data
        The plan itself, as frozen data.
    """

    def __init__(
        self, spec: Spec, sources: Mapping[str, Source], out: str | Path, options: RunOptions
    ) -> None:
        from lepton_pipe.run.refusals import local_output, refuse_places

        self.spec, self.sources, self.options = spec, sources, options
        self.out = local_output(out)
        refuse_places(self.out, sources, overwrite=options.overwrite)
        self.data: plans.Plan = self._make()

    def _make(self) -> plans.Plan:
        from lepton_pipe.plan import InputInfo, make_plan
        from lepton_pipe.run.refusals import refuse_space

        inputs = {
            n: InputInfo(s.type, s.chunks, without_secrets(s.uri)) for n, s in self.sources.items()
        }
        made = make_plan(self.spec, inputs, self._resources())
        refuse_space(self.out, made)
        return made

    def _resources(self) -> plans.Resources:
        """Return what the run may use: as told, of the given cluster, or of this machine."""
        from lepton_pipe.plan import Resources
        from lepton_pipe.run.cluster import cluster_size
        from lepton_pipe.run.machine import this_machine

        o = self.options
        _check_counts(o)
        remote = o.scheduler is not None and not o.serial
        size = cluster_size(str(o.scheduler)) if remote else this_machine(o.threads)
        return Resources(
            memory=_bytes(o.memory) if o.memory is not None else size.memory,
            workers=o.workers or size.workers,
            threads=size.threads,
            device=choose_device(o.device),
            serial=o.serial,
        )

    def __str__(self) -> str:
        from lepton_pipe.report.plan_text import plan_text

        return plan_text(self.data, str(self.out))

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return {"out": str(self.out), **self.data.to_json()}

    def run(self, *, progress: bool | None = None) -> Report:
        """Run the plan and publish its results at `out`.

        Parameters
        ----------
        progress
            Show progress on stderr; by default where it is a terminal.

        Returns
        -------
        Report
            What was made and measured.

        Raises
        ------
        RunError
            When a block failed. Nothing was published; `out` is what it was before.
        """
        from lepton_pipe.report.progress import Silent, Terminal
        from lepton_pipe.run.driver import run_plan

        shown = sys.stderr.isatty() if progress is None else progress
        with Terminal() if shown else nullcontext(Silent()) as watcher:
            return run_plan(
                self.data,
                self.sources,
                self.out,
                watcher=watcher,
                overwrite=self.options.overwrite,
                scheduler=self.options.scheduler,
            )


def _check_counts(options: RunOptions) -> None:
    for name, value in (("workers", options.workers), ("threads", options.threads)):
        if value is None:
            continue
        if value < 1:
            raise UsageError(f"{name}={value} must be at least 1")
        if options.scheduler is not None:
            raise UsageError(
                f"{name}={value} with scheduler={options.scheduler}: a cluster has its own; leave "
                f"{name} out, or start the cluster with as many as wanted"
            )


def _bytes(memory: str | int) -> int:
    from dask.utils import parse_bytes

    try:
        size = int(parse_bytes(memory))
    except ValueError as error:
        raise UsageError(
            f"memory {memory!r} is not understood; write it as 8GiB or 500MiB"
        ) from error
    if size < 2**20:
        raise UsageError(f"memory {memory!r} is {size} bytes; give a unit, such as 8GiB or 500MiB")
    return size


__all__ = ["Pipeline", "Plan", "RefusedError", "RunOptions", "open_image", "pipeline"]
