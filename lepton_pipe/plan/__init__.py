"""From a bound pipeline to a plan: stages, block shapes, memory, cost. Opens nothing."""

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
from lepton_pipe.plan.planner import baseline, make_plan

__all__ = [
    "SCRATCH",
    "Decision",
    "InputInfo",
    "Plan",
    "Read",
    "Resources",
    "Stage",
    "StoredArray",
    "Write",
    "baseline",
    "make_plan",
]
