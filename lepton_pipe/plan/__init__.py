"""From a bound pipeline to a plan: stages, block shapes, memory, cost. Opens nothing."""

from lepton_pipe.plan.cluster import plan_where_it_pays, why_no_cluster
from lepton_pipe.plan.holding import Keep
from lepton_pipe.plan.model import (
    SCRATCH,
    Decision,
    InputInfo,
    Plan,
    Read,
    Resources,
    Stage,
    StoredArray,
    Write,
)
from lepton_pipe.plan.own_kernels import cut_notes, has_own_kernels
from lepton_pipe.plan.parts import Parts
from lepton_pipe.plan.planner import baseline, make_plan
from lepton_pipe.plan.rates import NOMINAL, Rates
from lepton_pipe.plan.wanted import parse_chunks

__all__ = [
    "NOMINAL",
    "SCRATCH",
    "Decision",
    "InputInfo",
    "Keep",
    "Parts",
    "Plan",
    "Rates",
    "Read",
    "Resources",
    "Stage",
    "StoredArray",
    "Write",
    "baseline",
    "cut_notes",
    "has_own_kernels",
    "make_plan",
    "parse_chunks",
    "plan_where_it_pays",
    "why_no_cluster",
]
