"""The options of a run: what a user may say of it, and what makes no sense."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lepton_pipe.device import DeviceChoice
from lepton_pipe.errors import RefusedError, UsageError

# Words of the command line that no pipeline may use for an image or parameter of its own.
RESERVED = ("json", "help", "part", "plan", "explain")
OnError = Literal["fail", "skip", "fill"]
Keep = Literal["auto", "memory", "disk"]
KEEP: tuple[Keep, ...] = ("auto", "memory", "disk")
ON_ERROR: tuple[OnError, ...] = ("fail", "skip", "fill")
RUN_OPTIONS = (
    "out",
    "memory",
    "workers",
    "threads",
    "device",
    "device_memory",
    "device_direct",
    "serial",
    "overwrite",
    "update",
    "scheduler",
    "chunks",
    "levels",
    "keep",
    "on_error",
    "sparse",
    "digest",
    "staging",
    "stall",
    "insecure",
)
# Those that change nothing of how a plan is made.
_NOT_OF_THE_PLAN = (
    "out",
    "overwrite",
    "update",
    "on_error",
    "sparse",
    "digest",
    "staging",
    "stall",
    "insecure",
)


@dataclass(frozen=True)
class RunOptions:
    """What a run may use and where its results go.

    Attributes
    ----------
    memory
        For the whole run, such as ``"8GiB"``; by default a share of what is free.
    workers, threads
        Worker processes and threads in each. By default all cores: threads of this process for
        what is done before a cluster would have started, else of as few workers as can be. Kernels
        in plain Python hold the GIL and want a worker for each core.
    device
        ``"gpu"``, ``"cpu"``, or ``"auto"``: the GPU where there is one.
    device_memory
        What may be used of each GPU, such as ``"16GiB"``; by default a share of what is free.
        Refused where kernels run on the cores.
    device_direct
        Read chunks that are stored without codecs from local files straight to the GPU, by kvikio;
        all else by way of the host. Refused where kvikio is not installed.
    serial
        Run in this process, block after block, without Dask.
    overwrite
        Replace an output that is there, once the new one is whole.
    update
        The same, and compute those blocks alone that are not the same as in the output that is
        there: what depends on a parameter, on code or on part of an input that has changed.
    scheduler
        Address of a running Dask scheduler to use instead of a local cluster.
    chunks
        Length of the chunks of every output image along the axes that are named, in voxels:
        ``{"z": 1, "y": 1024, "x": 1024}`` or ``"z=1,y=1024,x=1024"``. Those of other axes are up
        to the planner; an output without such an axis is stored as if it were not named.
    levels
        Scale levels of every output image at most, the full resolution among them: 1 makes no
        pyramid. By default as many as it takes to show the image on a screen.
    keep
        Where what later stages need again is kept while the run lasts, but for workers of a
        `scheduler`. ``"disk"``: stored beside the output. ``"memory"``: packed in memory, and what
        there is no room for stored. ``"auto"``: in memory where there is room, and stored as well
        if making it again would take more than half a minute.
    on_error
        What is done where an input cannot be read or a kernel raises. ``"fail"``: nothing is
        published. With the others the run goes on, and lists these in ``quarantine.json``.
        ``"skip"``: whatever depends on them holds the fill value (0; NaN for floats), all else is
        as if nothing had happened. ``"fill"``: what cannot be read is taken to hold the fill
        value, and everything is computed from that. Statistics count neither.
    sparse
        Whether chunks that are missing in an input hold fill values, as zarr takes it: of all
        inputs. By default they are an error.
    digest
        Whether input files on this machine are known by their bytes instead of size and time: for
        what is done already, in a run that was stopped or for an update. That finds every change,
        and a copy is none; all that is used of them is read once more for it.
    staging
        Folder in which a result for a URL is made before it is uploaded; by default the current
        one. With a scheduler on other machines, a folder that all of them see.
    stall
        Seconds for which a cluster may stand still, no block ending and no worker using a core,
        before the workers that hang are replaced; 600 by default. A block may take as long as it
        likes while it computes.
    insecure
        Use a scheduler on a network although what it is told is not encrypted.
    """

    memory: str | int | None = None
    workers: int | None = None
    threads: int | None = None
    device: DeviceChoice = "auto"
    device_memory: str | int | None = None
    device_direct: bool = False
    serial: bool = False
    overwrite: bool = False
    update: bool = False
    scheduler: str | None = None
    chunks: Mapping[str, int] | str | None = None
    levels: int | None = None
    keep: Keep = "auto"
    on_error: OnError = "fail"
    sparse: bool = False
    digest: bool = False
    staging: str | Path | None = None
    stall: float | None = None
    insecure: bool = False

    @property
    def replaces(self) -> bool:
        """Whether an output that is there is replaced."""
        return self.overwrite or self.update

    def asked(self) -> dict[str, Any]:
        """Return what a run that repairs the result is to be given, as plain data."""
        more = {"on_error": self.on_error, "sparse": self.sparse, "digest": self.digest}
        return {**self.planning(), **more}

    def planning(self) -> dict[str, Any]:
        """Return the options that decide how a plan is made, as plain data.

        A run that was stopped goes on with the plan it had if they are the same.
        """
        asked = {n: getattr(self, n) for n in RUN_OPTIONS if n not in _NOT_OF_THE_PLAN}
        plain: dict[str, Any] = json.loads(json.dumps(asked, default=str))
        return plain


def checked_levels(levels: int | None) -> int | None:
    """Return `levels`; raise `UsageError` where there cannot be so many."""
    if levels is not None and (isinstance(levels, bool) or not isinstance(levels, int)):
        raise UsageError(f"levels={levels!r} must be a whole number, at least 1")
    if levels is not None and levels < 1:
        raise UsageError(f"levels={levels} leaves no image: 1 is the full resolution alone")
    return levels


def checked_keep(keep: Keep) -> Keep:
    """Return `keep`; raise `UsageError` where it is no choice."""
    if keep not in KEEP:
        raise UsageError(f"keep={keep!r} is not known; there are {', '.join(KEEP)}")
    return keep


def checked_on_error(on_error: OnError) -> OnError:
    """Return `on_error`; raise `UsageError` where it is no choice."""
    if on_error not in ON_ERROR:
        raise UsageError(f"on_error={on_error!r} is not known; there are {', '.join(ON_ERROR)}")
    return on_error


def check_replacing(options: RunOptions) -> None:
    """Raise `UsageError` where an output is to be replaced in two ways."""
    if options.overwrite and options.update:
        raise UsageError(
            "overwrite and update are both given: overwrite computes all blocks anew, update those "
            "that have changed; give one of them"
        )


def check_counts(options: RunOptions) -> None:
    """Raise `UsageError` where workers, threads or seconds make no sense."""
    if options.stall is not None and not options.stall > 0:
        raise UsageError(f"stall={options.stall!r} must be seconds, more than 0")
    for name, value in (("workers", options.workers), ("threads", options.threads)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UsageError(f"{name}={value!r} must be a whole number, at least 1")
        if options.scheduler is not None:
            raise UsageError(
                f"{name}={value} with scheduler={options.scheduler}: a cluster has its own; leave "
                f"{name} out, or start the cluster with as many as wanted"
            )


def check_device_memory(options: RunOptions, device: Literal["cpu", "gpu"]) -> None:
    """Raise `RefusedError` where memory of a GPU is given and none is used."""
    if options.device_memory is not None and device == "cpu":
        raise RefusedError(
            f"--device-memory {options.device_memory}: kernels run on the cores (no GPU is there, "
            "or --device cpu was given), so that there is no memory of a GPU to limit; leave it "
            "out, or use --device gpu (--memory is for that of the cores)"
        )


def memory_bytes(memory: str | int) -> int:
    """Return the bytes of a text such as ``8GiB``; raise `UsageError` where it is none."""
    from dask.utils import parse_bytes

    try:
        size = int(parse_bytes(memory))
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"memory {memory!r} is not understood; write it as 8GiB or 500MiB"
        ) from error
    if size < 2**20:
        raise UsageError(f"memory {memory!r} is {size} bytes; give a unit, such as 8GiB or 500MiB")
    return size
