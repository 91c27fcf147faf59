"""What a block costs beside its work: planning, graph, scheduling, folding, publishing.

An image of tiny chunks is cut into blocks of one chunk each, and a pipeline that does next to
nothing runs over it on a cluster of one worker with one thread, so that seconds divided by blocks
is what one block costs from end to end. That includes reading, and where an image is stored
writing and flushing, one file of a few hundred bytes for each block; the same without the engine
(a loop with zarr-python in one process) stands beside it.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from tests.benchmarks import machine
from tests.benchmarks.candidate import Clock, cluster_apart

BLOCKS = (1_000, 20_000)
SIDE = 16
MEMORY = 2**32
_NOTE = """\
Milliseconds for each block: `plan` with this cut, `run` from there to the published result without
the cluster's start and stop, and their sum; `loop` is the plain copy. `total` reduces to a sum,
`copied` stores an image. `search` is what an ordinary plan of the same image takes, in seconds in
all: it looks for a better cut, which this benchmark forbids.
"""


def main(data: Path, out: Path) -> None:
    """Measure and write ``overhead.md`` and ``overhead.json``."""
    folder = data / "overhead"
    rows = []
    for blocks in BLOCKS:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        image = _image(folder, blocks)
        loop = _loop(image, folder / "loop.zarr")
        for name in ("total", "copied"):
            rows.append({"pipeline": name, **_run(image, folder, name, loop)})
            print(rows[-1], flush=True)
    shutil.rmtree(folder)
    found = machine.facts()
    out.mkdir(parents=True, exist_ok=True)
    (out / "overhead.json").write_text(
        json.dumps({"machine": found, "rows": rows}, indent=1) + "\n"
    )
    text = _text(found, rows)
    (out / "overhead.md").write_text(text)
    print(text)


def _text(found: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    columns = ("pipeline", "blocks", "plan_ms", "run_ms", "total_ms", "loop_ms", "search_s")
    lines = ["# Cost of a block", "", machine.sentence(found), "", (__doc__ or "").strip(), ""]
    lines += [_NOTE, ""]
    lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(row[c]) for c in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _image(folder: Path, blocks: int) -> Path:
    """Make an image ``(t, y, x)`` of so many chunks, one for each t."""
    path = folder / "image.zarr"
    values = np.arange(blocks * SIDE * SIDE, dtype=np.uint16).reshape(blocks, SIDE, SIDE)
    array = zarr.create_array(
        str(path),
        shape=values.shape,
        chunks=(1, SIDE, SIDE),
        dtype=np.uint16,
        compressors=None,
        dimension_names=("t", "y", "x"),
    )
    array[...] = values
    return path


def _loop(image: Path, target: Path) -> float:
    """Return milliseconds for each chunk of a plain copy by zarr-python."""
    source: Any = zarr.open_array(str(image), mode="r")
    copy: Any = zarr.create_array(
        str(target), shape=source.shape, chunks=source.chunks, dtype=source.dtype
    )
    began = time.perf_counter()
    for t in range(source.shape[0]):
        copy[t] = source[t] + 1
    return 1000 * (time.perf_counter() - began) / source.shape[0]


def _run(image: Path, folder: Path, name: str, loop: float) -> dict[str, Any]:
    """Return milliseconds for each block."""
    from lepton_pipe.api import open_images
    from lepton_pipe.plan import InputInfo, Resources, make_plan
    from lepton_pipe.report.progress import Silent
    from lepton_pipe.run import cluster
    from lepton_pipe.run.driver import run_plan
    from tests.benchmarks import pipelines

    out, clock = folder / "out.zarr", Clock()
    shutil.rmtree(out, ignore_errors=True)
    pipeline = getattr(pipelines, name)
    began = time.perf_counter()
    pipeline.plan(raw=image, out=out)
    search = time.perf_counter() - began
    sources = open_images({"raw": image})
    with cluster_apart(cluster, clock):
        clock.start()
        began = time.perf_counter()
        spec = pipeline.bind({n: s.type for n, s in sources.items()}, {})
        inputs = {n: InputInfo(s.type, s.chunks, s.uri) for n, s in sources.items()}
        plan = make_plan(spec, inputs, Resources(MEMORY, 1, 1), tiling={"t": 1})
        planned = time.perf_counter() - began
        run_plan(plan, sources, out, watcher=Silent())
        clock.stop()
    blocks = sum(len(stage.blocks) for stage in plan.stages)
    per = 1000 / blocks
    return {
        "blocks": blocks,
        "search_s": round(search, 3),
        "plan_ms": round(planned * per, 3),
        "run_ms": round((clock.seconds - planned) * per, 3),
        "total_ms": round(clock.seconds * per, 3),
        "loop_ms": round(loop, 3),
    }
