"""Whether a run is worth a cluster: small ones are over before one would have started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from lepton_pipe.errors import MemoryRefusedError
from lepton_pipe.plan.holding import Keep
from lepton_pipe.plan.model import InputInfo, Plan, Resources
from lepton_pipe.plan.parts import Parts
from lepton_pipe.plan.planner import make_plan
from lepton_pipe.plan.rates import NOMINAL, Rates
from lepton_pipe.spec import Spec

SLOWER = 1.2
"""A cluster that is slower by this for want of memory is not worth its dashboard."""
CLUSTER_SECONDS = 2.4
"""What a local cluster takes to start and stop on an idle machine, at the least."""


def plan_where_it_pays(
    spec: Spec,
    inputs: Mapping[str, InputInfo],
    resources: Resources,
    rates: Rates = NOMINAL,
    chunks: Mapping[str, int] | None = None,
    levels: int | None = None,
    keep: Keep = "disk",
    parts: Parts = (),
    *,
    apart: bool = False,
    sendable: bool = True,
    at_once: int | None = None,
) -> Plan:
    """Plan a run for a local cluster, or for threads of this process where that is better.

    It is better where the work is done before a cluster would have started, and where its
    processes take memory that the blocks need. Results are the same, unless a kernel ends its
    process: in a cluster that is a worker, which is replaced.

    Parameters
    ----------
    resources
        Those of the cluster.
    rates, chunks, levels, keep, parts
        As for `make_plan`.
    apart
        Let no block take this process along: plan for a cluster wherever its processes leave the
        memory for it.
    sendable
        Whether kernels can be sent to another process; else they stay in this one.
    at_once
        Blocks that one process may compute at once, where that was asked for.

    Raises
    ------
    RefusedError
        As `make_plan`; the memory that it names is enough for threads of this process.
    """
    make = partial(
        make_plan,
        spec,
        inputs,
        rates=rates,
        chunks=chunks,
        levels=levels,
        keep=keep,
        parts=parts,
    )
    here = replace(resources, workers=0, threads=at_once or resources.slots)
    if not sendable:
        return make(here)
    # An earlier run may have been planned without workers.
    there = replace(resources, workers=max(1, resources.workers)) if apart else resources
    try:
        made = make(there)
    except MemoryRefusedError:
        return make(here)
    if apart:
        return made
    alone = make(here)
    return alone if _is_small(made) or made.seconds > SLOWER * alone.seconds else made


def why_no_cluster(plan: Plan) -> str:
    """Return why a plan without workers has none, for people."""
    if _is_small(plan):
        return "no cluster: the work is done before one would have started"
    return "no cluster: its processes would take memory that the blocks need"


def _is_small(plan: Plan) -> bool:
    return plan.seconds < CLUSTER_SECONDS
