"""The recipe of a stage: what its blocks are made by, apart from what they are made of."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

from lepton_pipe import cuda
from lepton_pipe.plan import Plan, Stage, StoredArray, Write
from lepton_pipe.plan.counted import is_watched
from lepton_pipe.spec import Ref, Step
from lepton_pipe.store.ome import result_codecs, scratch_codecs

KEY_BYTES = 16
"""Length of recipes and keys."""

FORMAT = 1
# What computes (ours among them: kernels are told apart by their code, but not what runs them),
# what compiles, and what encodes and decodes. A user's kernel may call any other library; whoever
# upgrades one of those gives the kernel another `version`.
LIBRARIES = (
    *("lepton-pipe", "numpy", "scipy", "scikit-image", "numba", "llvmlite"),
    *("zarr", "numcodecs", "imagecodecs", "tifffile", "pillow"),
)
_DEVICE_LIBRARIES = ("cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x")

Target = tuple[str, int]
"""Name of a stored array, and scale level."""


def recipe(plan: Plan, stage: Stage, copies: Collection[Target] = ()) -> bytes:
    """Return a digest of all that makes the blocks of a stage what they are, but for its inputs.

    It covers the steps with their code and arguments, the cut into blocks, how results are stored,
    the device, and the versions of `LIBRARIES`. It does not cover what does not change a bit: the
    names of stages, steps, inputs and parameters, the order and number of blocks at once, memory,
    caches and estimates. So it is the same on a machine with more cores, and for a pipeline that
    was changed elsewhere.

    Parameters
    ----------
    copies
        The targets that take over the chunks of an input as they are stored.

    Returns
    -------
    bytes
        `KEY_BYTES` long.
    """
    text = json.dumps(_facts(plan, stage, copies), sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=KEY_BYTES).digest()


def _facts(plan: Plan, stage: Stage, copies: Collection[Target]) -> dict[str, Any]:
    spec, device = plan.spec, plan.resources.device
    names = _local_names(stage)
    sweep = stage.sweep
    watched = [number for number, write in enumerate(stage.writes) if is_watched(spec, write)]
    return {
        "format": FORMAT,
        "versions": library_versions(device),
        "device": device,
        **({"cuda": cuda.digest()} if device == "gpu" else {}),
        "shape": stage.grid.shape,
        "block": stage.block,
        "reads": [spec[r.step].type.to_json() for r in stage.reads],
        "values": [spec.is_per_block(v) for v in stage.values],
        "steps": [_step(spec[s], spec.codes, names) for s in stage.steps],
        # Partials are returned under the ids of their steps.
        "reduces": [[names[s], s] for s in stage.reduces],
        "writes": [
            _write(plan.arrays[w.array], w, names, (w.array, w.level) in copies)
            for w in stage.writes
        ],
        # Counts are returned by the positions of their steps and writes.
        **({"counts": [names[s] for s in stage.counts]} if stage.counts else {}),
        **({"watched": watched} if watched else {}),
        "sweep": None if sweep is None else [names[sweep.step], sweep.axis, sweep.thickness],
    }


def _local_names(stage: Stage) -> dict[str, str]:
    """Return names that steps have in their stage alone, whatever the pipeline calls them."""
    named = [("read", [r.step for r in stage.reads]), ("value", stage.values)]
    return {
        step: f"{word}{i}"
        for word, steps in [*named, ("step", stage.steps)]
        for i, step in enumerate(steps)
    }


def _step(step: Step, codes: Mapping[Any, str], names: Mapping[str, str]) -> dict[str, Any]:
    args = {n: Ref(names[a.id]) if isinstance(a, Ref) else a for n, a in step.args.items()}
    local = replace(step, id=names[step.id], args=args)
    return {**local.to_json(codes[step.kernel]), "depth": step.depth}


def _write(
    array: StoredArray, write: Write, names: Mapping[str, str], copied: bool
) -> dict[str, Any]:
    layout = array.levels[write.level]
    codecs = result_codecs(array.type.dtype) if array.output else scratch_codecs(array.type)
    return {
        "step": names[write.step],
        "array": array.name,
        "level": write.level,
        "factors": write.factors,
        "dtype": array.type.dtype.str,
        "shape": layout.grid.shape,
        "chunks": layout.chunks,
        "shards": layout.shards,
        "codecs": "copied" if copied else [c.to_dict() for c in codecs],
    }


@functools.cache
def library_versions(device: str = "cpu") -> dict[str, str]:
    """Return the versions of the libraries whose change could change results."""
    more = _DEVICE_LIBRARIES if device == "gpu" else ()
    return {name: installed_version(name) for name in (*LIBRARIES, *more)}


@functools.cache
def installed_version(name: str) -> str:
    """Return the version of an installed distribution; empty if there is none.

    Of its metadata the line of the version is read alone: the rest is long, and an e-mail's parser
    takes milliseconds for it.
    """
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return ""
    line = re.search(r"^Version: *(\S+) *$", found.read_text("METADATA") or "", re.MULTILINE)
    return line[1] if line else found.version
