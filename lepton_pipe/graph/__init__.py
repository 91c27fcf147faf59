"""From a stage of a plan to Dask graphs."""

from lepton_pipe.graph.build import StageGraph

__all__ = ["StageGraph"]
