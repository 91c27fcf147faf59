"""Which step of a run on a GPU is told to limit it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_pipe.report.device import DeviceReport

SHARE = st.floats(0, 1)
NOTHING = DeviceReport(*[0.0] * 7)
GPU = ("copying_in", "kernels", "copying_out")
HOST = ("reading", "writing", "launching")


@given(st.builds(DeviceReport, *[SHARE] * 7))
def test_nothing_is_busier_than_what_limits(report):
    shares = report.to_json()
    busiest = max([shares["cores"], *(shares[n] for n in GPU)])
    if report.limit == "waiting":
        assert busiest <= 0.5
    elif report.limit in HOST:
        assert shares["cores"] == busiest
        assert shares[report.limit] == max(shares[n] for n in HOST)
    else:
        assert shares[report.limit] == busiest


def test_steps_that_share_the_cores_limit_together():
    report = NOTHING._replace(reading=0.5, writing=0.4, kernels=0.6)
    assert report.limit == "reading"
    assert "cores 90%; reading limits" in str(report)


def test_a_gpu_that_waits_is_not_said_to_limit():
    report = NOTHING._replace(kernels=0.1, copying_in=0.3, waiting=0.7)
    assert report.limit == "waiting"
    assert "GPU busy 10% with kernels, 30% and 0% with copies" in str(report)
    assert "nothing is busy half of the time" in str(report)
    assert "for 70% of their time to read and write" in str(report)


@pytest.mark.parametrize("step", GPU)
def test_a_busy_gpu_limits(step):
    assert NOTHING._replace(reading=0.55, **{step: 0.9}).limit == step
