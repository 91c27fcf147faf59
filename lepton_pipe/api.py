"""The face in Python: pipelines that can be called, planned and run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_pipe.device import DeviceChoice
from lepton_pipe.errors import RefusedError, UsageError
from lepton_pipe.heap import one_heap
from lepton_pipe.options import (
    RESERVED,
    RUN_OPTIONS,
    Keep,
    OnError,
    RunOptions,
    checked_keep,
    checked_on_error,
)
from lepton_pipe.planned import Plan
from lepton_pipe.spec import Definition, Node, evaluate, nested

if TYPE_CHECKING:
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
        device_direct: bool = False,
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

        Only a kernel that does not declare what it needs is run, on a part of the image and in a
        process of its own, before it is first planned with; and with `digest` an update reads the
        files of its inputs.

        Parameters
        ----------
        out
            Directory to publish the results in, or its URL: ``s3://bucket/folder/name.zarr``.
        memory, workers, threads, device, device_memory, device_direct, serial, overwrite, update
            See `RunOptions`.
        scheduler, chunks, levels, keep, on_error, sparse, digest, staging, stall, insecure
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
            device_direct=device_direct,
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
        return self._planned(images, parameters, out, options, spoilt)

    def _planned(
        self,
        images: Mapping[str, Any],
        parameters: Mapping[str, Any],
        out: str | Path,
        options: RunOptions,
        spoilt: Spoilt | None,
    ) -> Plan:
        """Open the images, known by their bytes if the run shall know them so, and plan."""
        sources = open_images(images, tolerant=options.on_error != "fail", sparse=options.sparse)
        if options.digest:
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
        Size of a voxel, and its unit, of the spatial axes: a name that OME-Zarr knows, such as
        ``"micrometer"``, or usual short for it (``"um"``), or an angle.
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
    UsageError
        When a unit is not known, or a scale does not fit the axes.
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


__all__ = ["Pipeline", "Plan", "RefusedError", "RunOptions", "open_image", "pipeline"]
