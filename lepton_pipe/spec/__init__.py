"""What a user writes: kernels, pipelines, and the canonical form they are frozen into."""

from lepton_pipe.spec.absorb import Absorbing, Around, Operation, Rounding, Tally, Voxelwise
from lepton_pipe.spec.blame import blamed
from lepton_pipe.spec.canonical import Ref, Spec, Step, plain
from lepton_pipe.spec.declare import kernel
from lepton_pipe.spec.evaluate import as_value, check_result, compute_step, evaluate, finish_step
from lepton_pipe.spec.kernel import Kernel, is_by_value, mark_by_value
from lepton_pipe.spec.losses import Counting, Lost, NotFinite
from lepton_pipe.spec.node import Image, Node, Table, Value
from lepton_pipe.spec.outputs import nested
from lepton_pipe.spec.parameters import Parameter
from lepton_pipe.spec.pipeline import Definition
from lepton_pipe.spec.types import ImageType, PerBlock, Place, TableType, ValueType
from lepton_pipe.spec.variants import users_of, value_text, variants

__all__ = [
    "Absorbing",
    "Around",
    "Counting",
    "Definition",
    "Image",
    "ImageType",
    "Kernel",
    "Lost",
    "Node",
    "NotFinite",
    "Operation",
    "Parameter",
    "PerBlock",
    "Place",
    "Ref",
    "Rounding",
    "Spec",
    "Step",
    "Table",
    "TableType",
    "Tally",
    "Value",
    "ValueType",
    "Voxelwise",
    "as_value",
    "blamed",
    "check_result",
    "compute_step",
    "evaluate",
    "finish_step",
    "is_by_value",
    "kernel",
    "mark_by_value",
    "nested",
    "plain",
    "users_of",
    "value_text",
    "variants",
]
