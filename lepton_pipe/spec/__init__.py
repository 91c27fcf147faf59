"""What a user writes: kernels, pipelines, and the canonical form they are frozen into."""

from lepton_pipe.spec.blame import blamed
from lepton_pipe.spec.canonical import Ref, Spec, Step, plain
from lepton_pipe.spec.evaluate import as_value, check_result, compute_step, evaluate, finish_step
from lepton_pipe.spec.kernel import Kernel, kernel, mark_by_value
from lepton_pipe.spec.node import Image, Node, Table, Value
from lepton_pipe.spec.parameters import Parameter
from lepton_pipe.spec.pipeline import Definition
from lepton_pipe.spec.types import ImageType, PerBlock, Place, TableType, ValueType

__all__ = [
    "Definition",
    "Image",
    "ImageType",
    "Kernel",
    "Node",
    "Parameter",
    "PerBlock",
    "Place",
    "Ref",
    "Spec",
    "Step",
    "Table",
    "TableType",
    "Value",
    "ValueType",
    "as_value",
    "blamed",
    "check_result",
    "compute_step",
    "evaluate",
    "finish_step",
    "kernel",
    "mark_by_value",
    "plain",
]
