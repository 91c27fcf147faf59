"""World coordinates are those of the image that was measured, also beside others of its shape."""

import numpy as np

import lepton_pipe as lp
from lepton_pipe.check import compare, run_in_blocks
from lepton_pipe.kernels import crop, find_peaks, label, regionprops
from lepton_pipe.spec import evaluate
from lepton_pipe.store import open_source


@lp.pipeline
def halves(raw: lp.Image):
    upper, lower = crop(raw, y=(0, 30)), crop(raw, y=(30, 60))
    return {
        "upper": regionprops(label(upper > 200), upper),
        "lower": regionprops(label(lower > 200), lower),
        "upper-peaks": find_peaks(upper, 2),
        "lower-peaks": find_peaks(lower, 2),
    }


def test_two_images_of_one_shape_keep_their_own_positions():
    image = np.random.default_rng(0).integers(0, 256, (60, 40)).astype(np.uint8)
    source = open_source(image, scale=(0.5, 2.0), unit="micrometer")
    spec = halves.bind({"raw": source.type}, {})
    whole = evaluate(spec, {"raw": image})
    made = run_in_blocks(spec, {"raw": source}, {"y": 11, "x": 13})
    for name, expected in whole.items():
        assert compare(expected, made[name])[0] != "different", name
    assert whole["lower"]["centroid_world-y"].min() >= 15.0
    assert whole["upper"]["centroid_world-y"].max() < 15.0
