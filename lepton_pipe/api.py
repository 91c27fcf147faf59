"""The face in Python: pipelines that can be called, planned and run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_pipe.device import DeviceChoice, choose_device, device_count
from lepton_pipe.errors import RefusedError, UsageError, without_secrets
from lepton_pipe.heap import one_heap
from lepton_pipe.options import (
    RESERVED,
    RUN_OPTIONS,
    Keep,
    OnError,
    RunOptions,
    check_counts,
    check_replacing,
    checked_keep,
    checked_levels,
    checked_on_error,
    memory_bytes,
)
from lepton_pipe.spec import Definition, ImageType, Node, Spec, evaluate, nested

if TYPE_CHECKING:
    from lepton_pipe import plan as plans
    from lepton_pipe.report.report import Report
    from lepton_pipe.run.changes import Changes
    from lepton_pipe.run.machine import Size
    from lepton_pipe.run.published import Spoilt
    from lepton_pipe.store.source import Source


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

    @property
    def reference(self) -> str | None:
        """What the command line calls it, ``NAME`` or ``FILE:NAME``; None where it cannot."""
        from lepton_pipe.run.asked import reference_of

        return reference_of(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the outputs of whole arrays in memory.

        Returns
        -------
        dict or array
            By name; just the output where the pipeline returns a single one. Images are arrays,
            values are numbers, tables are mappings from column names to arrays. Of a sweep, such
            a dict for each variant.
        """
        if any(isinstance(a, Node) for a in (*args, *kwargs.values())):
            return self.described(*args, **kwargs)
        images, parameters = self.split(args, kwargs)
        sources = open_images(images)
        spec = self.bind({n: s.type for n, s in sources.items()}, parameters)
        results = evaluate(spec, {n: s.read(s.type.grid.region) for n, s in sources.items()})
        return results[self.name] if list(results) == [self.name] else nested(results)

    def plan(
        self,
        *,
        out: str | Path,
        memory: str | int | None = None,
        workers: int | None = None,
        threads: int | None = None,
        device: DeviceChoice = "auto",
        device_memory: str | int | None = None,
        serial: bool = False,
        overwrite: bool = False,
        update: bool = False,
        scheduler: str | None = None,
        chunks: Mapping[str, int] | str | None = None,
        levels: int | None = None,
        keep: Keep = "auto",
        on_error: OnError = "fail",
        sparse: bool = False,
        digest: bool = False,
        staging: str | Path | None = None,
        stall: float | None = None,
        insecure: bool = False,
        spoilt: Spoilt | None = None,
        **arguments: Any,
    ) -> Plan:
        """Plan a run over images of any size; reads no voxels and writes no results.

        Only a kernel that does not declare what it needs is run, once, on a part of the image, and
        with `digest` an update reads the files of its inputs.

        Parameters
        ----------
        out
            Directory to publish the results in, or its URL: ``s3://bucket/folder/name.zarr``.
        memory, workers, threads, device, device_memory, serial, overwrite, update, scheduler
            See `RunOptions`.
        chunks, levels, keep, on_error, sparse, digest, staging, stall, insecure
            See `RunOptions`.
        spoilt
            What of an output is to be made again, for `lepton_pipe.repair`.
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
        one_heap()
        images, parameters = self.split((), arguments)
        options = RunOptions(
            memory=memory,
            workers=workers,
            threads=threads,
            device=device,
            device_memory=device_memory,
            serial=serial,
            overwrite=overwrite,
            update=update,
            scheduler=scheduler,
            chunks=chunks,
            levels=levels,
            keep=checked_keep(keep),
            on_error=checked_on_error(on_error),
            stall=stall,
            insecure=insecure,
            sparse=sparse,
            digest=digest,
            staging=staging,
        )
        sources = open_images(images, tolerant=on_error != "fail", sparse=sparse)
        if digest:
            sources = {n: s.known_by_bytes() for n, s in sources.items()}
        bind = partial(self.bind, parameters=parameters)
        return Plan(bind, sources, out, options, self.reference, spoilt)


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
    tolerant: bool = False,
    sparse: bool = False,
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
    tolerant
        Open a stack of planes even if some of its files cannot be read: for runs with
        ``on_error="skip"`` or ``"fill"``.
    sparse
        Whether stored chunks (or tiles of a TIFF) that are missing hold the fill value: programs
        may leave out those that hold nothing else. By default they are an error.

    Raises
    ------
    InputError
        When no image can be read from it.
    """
    from lepton_pipe.store import open_source

    how = {"level": level, "axes": axes, "scale": scale, "unit": unit}
    how |= {"tolerant": tolerant, "sparse": sparse}
    return open_source(what, **how).remembering(what, how)


def open_images(
    images: Mapping[str, Any], *, tolerant: bool = False, sparse: bool = False
) -> dict[str, Source]:
    """Open the images of a pipeline, by name."""
    return {n: open_image(what, tolerant=tolerant, sparse=sparse) for n, what in images.items()}


class Plan:
    """What a run will do: print it, compare it, run it.

    Attributes
    ----------
    spec
        The pipeline, bound to its images and parameters.
    data
        The plan itself, as frozen data.
    reference
        What the command line calls the pipeline; None where it cannot.
    spoilt
        What of the output is damaged and to be made again as it was; None where it is not to be
        repaired.
    """

    def __init__(
        self,
        bind: Callable[[Mapping[str, ImageType]], Spec],
        sources: Mapping[str, Source],
        out: str | Path,
        options: RunOptions,
        reference: str | None = None,
        spoilt: Spoilt | None = None,
    ) -> None:
        from lepton_pipe.plan import has_own_kernels
        from lepton_pipe.run.digests import digest_notes
        from lepton_pipe.run.earlier import death_notes, died, earlier_run
        from lepton_pipe.run.published import refuse_without_ledger
        from lepton_pipe.run.refusals import refuse_places, run_output, staging_notes
        from lepton_pipe.store.output import local_of

        self.sources, self.options = sources, options
        self.reference, self.spoilt = reference, spoilt
        self.spec = bind({n: s.type for n, s in sources.items()})
        self.out = run_output(out, options.staging, scheduler=options.scheduler)
        check_replacing(options)
        if options.update and local_of(self.out).exists():
            refuse_without_ledger(local_of(self.out))
        refuse_places(self.out, sources, overwrite=options.replaces)
        for source in sources.values() if options.on_error == "fail" else ():
            source.refuse_incomplete()
        self._earlier = earlier_run(local_of(self.out), options)
        # Only kernels of the user's own are not known to leave their process alone.
        self._died = has_own_kernels(self.spec) and died(local_of(self.out))
        self.rates, self.notes = self._measure(bind)
        self.data: plans.Plan = self._make()
        self.notes += staging_notes(self.out, self.data)
        self.notes += death_notes(self.data) if self._died else []
        self.changes = self._changes()
        if options.digest:
            self.notes += digest_notes(sources, looked=self.changes is not None)

    def _measure(
        self, bind: Callable[[Mapping[str, ImageType]], Spec]
    ) -> tuple[plans.Rates, list[str]]:
        """Return what is known of this machine, and of kernels that do not say what they need."""
        from lepton_pipe.run.probe import probe
        from lepton_pipe.run.rates import machine_rates, save

        rates = machine_rates() if self._earlier is None else self._earlier.rates
        found = probe(self.spec, bind, self.sources, rates)
        if found.scratch:
            rates = found.added_to(rates)
            save(found.added_to(machine_rates()))
        return rates, found.notes

    def _make(self) -> plans.Plan:
        from lepton_pipe.plan import InputInfo, make_plan, parse_chunks, plan_where_it_pays
        from lepton_pipe.run.refusals import refuse_space
        from lepton_pipe.store.copying import copyable

        inputs = {
            n: InputInfo(s.type, s.chunks, without_secrets(s.uri), copyable(s) is not None)
            for n, s in self.sources.items()
        }
        o = self.options
        free = o.workers is None and o.scheduler is None and not o.serial
        make = partial(plan_where_it_pays, apart=self._is_apart()) if free else make_plan
        made = make(
            self.spec,
            inputs,
            self._resources(),
            rates=self.rates,
            chunks=parse_chunks(o.chunks),
            levels=checked_levels(o.levels),
            # Which of the processes of a cluster elsewhere runs a block, nobody knows beforehand.
            keep="disk" if o.scheduler is not None else o.keep,
            parts=() if self._earlier is None else self._earlier.parts,
        )
        refuse_space(self.out, made)
        return made

    def _is_apart(self) -> bool:
        """Tell whether the run is to outlive a kernel that ends its process."""
        from lepton_pipe.plan import has_own_kernels

        # One that goes on stays with the workers that it had.
        had = self._earlier is not None and not self._earlier.resources.in_process
        goes_past = self.options.on_error != "fail" and has_own_kernels(self.spec)
        return had or self._died or goes_past

    def _resources(self) -> plans.Resources:
        """Return what the run may use: as told, of the given cluster, or of this machine."""
        from lepton_pipe.plan import Resources
        from lepton_pipe.run.addresses import refuse_address

        o = self.options
        check_counts(o)
        if o.scheduler is not None:
            refuse_address(o.scheduler, insecure=o.insecure)
        if self._earlier is not None:
            return self._earlier.resources
        device = choose_device(o.device)
        size = self._size(device)
        return Resources(
            memory=memory_bytes(o.memory) if o.memory is not None else size.memory,
            workers=size.workers,
            threads=size.threads,
            device=device,
            serial=o.serial,
            device_memory=self._device_memory(size.workers) if device == "gpu" else 0,
        )

    def _device_memory(self, workers: int) -> int:
        """Return what each worker may take of its GPU, which several may have to share."""
        from lepton_pipe.run.machine import default_device_memory

        wanted = self.options.device_memory
        here = memory_bytes(wanted) if wanted is not None else default_device_memory()
        return here // -(-workers // max(1, device_count()))

    def _size(self, device: str) -> Size:
        o = self.options
        if o.scheduler is not None and not o.serial:
            # Dask is loaded by runs that use it alone.
            from lepton_pipe.run.cluster import cluster_size

            return cluster_size(o.scheduler)
        from lepton_pipe.run.machine import this_machine

        workers = o.workers
        if device == "gpu" and workers is None:
            workers = device_count()  # a context of CUDA is for one device
        return this_machine(workers, o.threads)

    def _changes(self) -> Changes | None:
        """Return what an update will compute; None where there is nothing to update."""
        from lepton_pipe.run.changes import changes_at

        out = self.out if self.options.update else None
        return changes_at(out, self.data, self.sources, self.spoilt)

    def __str__(self) -> str:
        from lepton_pipe.report.plan_text import plan_text

        lines = [plan_text(self.data, str(self.out)), *(f"  note: {n}" for n in self.notes)]
        if self.changes is not None:
            lines.append(str(self.changes))
        return "\n".join(lines)

    def explain(self) -> str:
        """Return why each stage has the blocks it has, and what the next best would have cost."""
        from lepton_pipe.report.explain_text import explain_text

        return explain_text(self.data, self.rates)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        update = {} if self.changes is None else {"update": self.changes.to_json()}
        return {"out": str(self.out), **self.data.to_json(), **update}

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
            When a block failed. Nothing was published; `out` is what it was before. With
            ``on_error="skip"`` or ``"fill"`` the report's ``quarantine`` lists such blocks instead.
        """
        from lepton_pipe.report.memory import own_bytes
        from lepton_pipe.report.progress import Silent, Terminal
        from lepton_pipe.run.asked import asked
        from lepton_pipe.run.driver import run_plan
        from lepton_pipe.run.earlier import planned_with
        from lepton_pipe.run.rates import learn
        from lepton_pipe.run.unchanged import leave_as_is

        if self.changes is not None and self.changes.same:
            # Looked at once more: the plan may have been made a while ago.
            self.changes = self._changes()
            if self.changes is not None and self.changes.same:
                return leave_as_is(self.changes.out)
        held = own_bytes()
        shown = sys.stderr.isatty() if progress is None else progress
        with Terminal() if shown else nullcontext(Silent()) as watcher:
            report = run_plan(
                self.data,
                self.sources,
                self.out,
                watcher=watcher,
                overwrite=self.options.overwrite,
                update=self.options.update,
                scheduler=self.options.scheduler,
                on_error=self.options.on_error,
                stall=self.options.stall,
                planned_with=planned_with(self.options.planning(), self.data, self.rates),
                asked=asked(self.reference, self.spec, self.sources, self.options.asked()),
                spoilt=self.spoilt,
            )
            if self.options.scheduler is None:
                learn(self.data, report, held)
            return report


__all__ = ["Pipeline", "Plan", "RefusedError", "RunOptions", "open_image", "pipeline"]
