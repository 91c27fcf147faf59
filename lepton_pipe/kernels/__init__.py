"""The catalogue of kernels.

Every one of them takes arrays (and computes) or images of a pipeline (and describes).
"""

from lepton_pipe.kernels.casts import astype
from lepton_pipe.kernels.edges import (
    difference_of_gaussians,
    gradient_magnitude,
    laplace,
    sobel,
)
from lepton_pipe.kernels.filters import gaussian, uniform
from lepton_pipe.kernels.flatfield import flatfield
from lepton_pipe.kernels.histograms import histogram
from lepton_pipe.kernels.labels import label
from lepton_pipe.kernels.morphology import (
    black_tophat,
    closing,
    dilation,
    erosion,
    opening,
    white_tophat,
)
from lepton_pipe.kernels.peaks import find_peaks
from lepton_pipe.kernels.pointwise import clip, rescale, where
from lepton_pipe.kernels.projection import project
from lepton_pipe.kernels.quantile import quantile
from lepton_pipe.kernels.ranks import maximum, median, minimum
from lepton_pipe.kernels.reductions import (
    maximum_of,
    mean,
    minimum_of,
    std,
    sum_of,
)
from lepton_pipe.kernels.regions import regionprops
from lepton_pipe.kernels.resample import crop, downsample
from lepton_pipe.kernels.thresholds import li, otsu, triangle

__all__ = [
    "astype",
    "black_tophat",
    "clip",
    "closing",
    "crop",
    "difference_of_gaussians",
    "dilation",
    "downsample",
    "erosion",
    "find_peaks",
    "flatfield",
    "gaussian",
    "gradient_magnitude",
    "histogram",
    "label",
    "laplace",
    "li",
    "maximum",
    "maximum_of",
    "mean",
    "median",
    "minimum",
    "minimum_of",
    "opening",
    "otsu",
    "project",
    "quantile",
    "regionprops",
    "rescale",
    "sobel",
    "std",
    "sum_of",
    "triangle",
    "uniform",
    "where",
    "white_tophat",
]
