"""Find the coins in a picture and measure them: first in memory, then from file to file.

Run it with ``python first_pipeline.py``. It writes ``coins.tif`` and ``coins.zarr/`` into the
current directory. The same file works on the command line, too::

    lepton-pipe run first_pipeline.py raw=coins.tif out=coins.zarr --sigma 3
"""

import pyarrow.parquet as pq
import tifffile
import zarr
from skimage import data

import lepton_pipe as lp
from lepton_pipe.kernels import gaussian, label, otsu, regionprops


@lp.pipeline
def coins(raw: lp.Image, *, sigma: float = 2.0, min_size: int = 150) -> dict[str, lp.Node]:
    """Find coins on an unevenly lit table and measure each of them.

    Parameters
    ----------
    raw
        Photograph, bright coins on a darker ground.
    sigma
        Width of the smoothing that takes out scratches, in pixels.
    min_size
        Objects of fewer pixels are dropped.
    """
    light = gaussian(raw, sigma=sigma) - gaussian(raw, sigma=40)
    labels = label(light > otsu(light), min_size=min_size)
    return {"labels": labels, "coins": regionprops(labels, raw)}


def main() -> None:
    picture = data.coins()  # (y, x) uint8, ships with scikit-image

    # 1. On arrays a pipeline computes at once. This is how to try things out.
    in_memory = coins(picture)
    print(f"in memory: {in_memory['labels'].max()} coins")

    # 2. From file to file it is planned first. Nothing is computed or written yet.
    tifffile.imwrite("coins.tif", picture)
    plan = coins.plan(raw="coins.tif", out="coins.zarr", memory="1GiB", overwrite=True)
    print(plan)

    # 3. Then it runs in blocks: in threads here, as the picture is small; for a large one a Dask
    # cluster is started, and closed at the end.
    report = plan.run()
    print(report)

    # 4. What came out are an OME-Zarr image and a Parquet table; any reader of these will do.
    labels = zarr.open_group(report.path("labels"), mode="r")["0"][:]
    table = pq.read_table(report.path("coins"))
    largest = table.sort_by([("area", "descending")]).slice(0, 3)
    print(largest.select(["label", "area", "centroid-y", "centroid-x"]).to_pylist())

    assert (labels == in_memory["labels"]).all(), "blocks and whole array give the same labels"
    assert table.num_rows == 24, "there are 24 coins on the table"
    print("24 coins, and the same labels in memory and in blocks")


if __name__ == "__main__":
    main()
