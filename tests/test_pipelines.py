"""The pipelines that ship: each does on a picture what its name says."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
from scipy import ndimage as ndi

import lepton_pipe as lp
from lepton_pipe.catalogue import find_pipeline, shipped_pipelines
from lepton_pipe.check import check
from lepton_pipe.errors import UsageError
from lepton_pipe.run.verify import verify
from tests.command import lepton, names
from tests.run.five import picture

SHIPPED = shipped_pipelines()


def test_what_ships():
    assert set(SHIPPED) == {"convert", "flatfield", "galaxies", "nuclei", "project"}
    for pipeline in SHIPPED.values():
        assert pipeline.summary.endswith(".")
        assert all(p.help for p in pipeline.parameters.values()), pipeline.name


@pytest.mark.parametrize("name", SHIPPED)
def test_blocks_equal_the_whole(name):
    result = check(SHIPPED[name], raw=picture((5, 40, 48), "uint16", 2), dask=False, runs=2)
    assert result.equal, str(result)


def test_nuclei_finds_the_coins():
    """24 coins lie on the table; the two darkest at the left run into the shade."""
    found = SHIPPED["nuclei"](skimage.data.coins(), sigma=3, threshold=107.0, min_size=500)
    count = ndi.label(found["labels"] > 0)[1]
    assert found["labels"].max() == count == len(found["nuclei"]["label"])
    assert 20 <= count <= 24


def test_galaxies_are_found_in_the_hubble_deep_field():
    found = SHIPPED["galaxies"](lp.open_image(skimage.data.hubble_deep_field(), axes="yxc"))
    assert found["objects"].shape == (872, 1000)
    assert 300 < found["objects"].max() < 3000
    light, objects = found["light"], found["objects"]
    assert light[objects > 0].mean() > 3 * light[objects == 0].mean()


def test_convert_changes_no_value():
    image = picture((3, 20, 30), "int32", 4)
    np.testing.assert_array_equal(SHIPPED["convert"](image)["image"], image)


@pytest.mark.parametrize(("how", "fn"), [("max", np.max), ("mean", np.mean), ("sum", np.sum)])
def test_project(how, fn):
    image = picture((5, 20, 30), "uint8", 4)
    made = SHIPPED["project"](image, how=how)["projection"]
    np.testing.assert_allclose(made, fn(image.astype(float), axis=0), rtol=1e-6)


def test_flatfield_takes_out_a_gradient():
    y, x = np.mgrid[-1:1:60j, -1:1:80j]
    image = (1000 * (1 - 0.3 * x**2 - 0.2 * y**2)).astype(np.float32)
    corrected = SHIPPED["flatfield"](image)["corrected"]
    assert corrected.std() / corrected.mean() < 0.001 < image.std() / image.mean()


def test_names_are_guessed_and_files_are_found(tmp_path):
    assert find_pipeline("nuclei") is SHIPPED["nuclei"]
    with pytest.raises(UsageError, match="did you mean 'nuclei'"):
        find_pipeline("nucleii")
    with pytest.raises(UsageError, match=r"there is no pipeline 'xyzzy'\. There are convert"):
        find_pipeline("xyzzy")
    file = tmp_path / "mine.py"
    file.write_text(
        "import lepton_pipe as lp\nfrom lepton_pipe.pipelines.nuclei import nuclei\n"
        "@lp.pipeline\ndef own(raw: lp.Image):\n    return raw\n"
    )
    assert find_pipeline(str(file)).name == "own"  # what it imports does not count
    assert find_pipeline(f"{file}:own").name == "own"
    with pytest.raises(UsageError, match="no pipeline 'other'; it has own"):
        find_pipeline(f"{file}:other")


@pytest.mark.slow
def test_the_demo_makes_what_it_says(tmp_path):
    for _ in range(2):  # a second demo replaces the first
        done = lepton("demo", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert names(tmp_path) == {"lepton-demo.zarr", "lepton-demo-overview.png"}
    made = tmp_path / "lepton-demo.zarr"
    assert {"light", "objects", "catalogue.parquet"} <= names(made)
    assert "lepton-demo-overview.png" in done.stdout
    found = verify(made)
    assert (found.whole, found.extra) == (True, ())
    told = " ".join(done.stdout.split())
    assert told.count("no cluster: the work is done before one would have started") == 1
