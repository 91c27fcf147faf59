"""The surface: every name on it is there, documented, and meant to be."""

from __future__ import annotations

import inspect

import pytest

import lepton_pipe
from lepton_pipe import kernels
from lepton_pipe.spec import Kernel

IDEAS = {
    "Image", "Node", "Pipeline", "Place", "Plan", "Table", "Value", "ValueType",
    "kernel", "open_image", "pipeline",
}  # fmt: skip


def test_the_surface_is_what_was_decided():
    assert set(lepton_pipe.__all__) == IDEAS


@pytest.mark.parametrize("module", [lepton_pipe, kernels], ids=lambda m: m.__name__)
def test_exported_names_are_there_sorted_and_documented(module):
    assert list(module.__all__) == sorted(module.__all__)
    for name in module.__all__:
        member = getattr(module, name)
        assert (inspect.getdoc(member) or "").strip(), name


def test_every_kernel_of_the_catalogue_is_exported():
    public = {
        name
        for name, member in vars(kernels).items()
        if isinstance(member, Kernel) and not name.startswith("_")
    }
    assert public <= set(kernels.__all__)


def test_the_version_is_that_of_the_package():
    from importlib.metadata import PackageNotFoundError, version

    try:
        installed = version("lepton-pipe")
    except PackageNotFoundError:
        pytest.skip("run from a tree that is not installed")
    assert lepton_pipe.__version__ == installed
