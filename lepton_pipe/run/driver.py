"""Run a plan: stage after stage, then the small results, then one rename."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from distributed import Client

from lepton_pipe.errors import RunError, without_secrets
from lepton_pipe.plan import SCRATCH, Plan, Stage
from lepton_pipe.report.memory import PeakMemory
from lepton_pipe.report.progress import Watcher
from lepton_pipe.report.report import Report, StageReport, value_json
from lepton_pipe.run.cluster import local_client, remote_client
from lepton_pipe.run.executors import DaskExecutor, Executor, SerialExecutor
from lepton_pipe.run.publish import Staging
from lepton_pipe.run.results import (
    RECORD_FORMAT,
    library_versions,
    write_json,
    write_table,
)
from lepton_pipe.spec import (
    ImageType,
    PerBlock,
    Spec,
    TableType,
    ValueType,
    blamed,
    compute_step,
    finish_step,
)
from lepton_pipe.store.arrays import ArraySource
from lepton_pipe.store.ome import create_image, create_scratch
from lepton_pipe.store.open import MARKER
from lepton_pipe.store.source import Source
from lepton_pipe.store.target import ArrayTarget
from lepton_pipe.worker import BlockResult, Program

_INPUTS = "inputs"
_WORKERS = "workers"
# Folders of the staging place that are gone before it is published.
_PASSING = (SCRATCH.rstrip("/"), _INPUTS, _WORKERS)


def run_plan(
    plan: Plan,
    sources: Mapping[str, Source],
    out: Path,
    *,
    watcher: Watcher,
    overwrite: bool = False,
    scheduler: str | None = None,
) -> Report:
    """Run a plan and publish its results at `out`.

    Parameters
    ----------
    sources
        The input images, by the names the plan was made with.
    scheduler
        Address of a running Dask scheduler; by default a local cluster is started, or none when
        the plan is serial.

    Raises
    ------
    OutputExistsError
        When something is at `out` already.
    RunError
        When a block failed. Nothing was published and `out` is what it was before.
    """
    started = time.perf_counter()
    # Before anything is read: what is recorded is the input as it was at the start.
    identities = {n: _public(s.identity()) for n, s in sources.items()}
    staging = Staging(out, overwrite=overwrite)
    for left in staging.leftovers():
        watcher.say(f"note: {left} is left from a killed run; remove it if no run uses it")
    try:
        with PeakMemory() as memory, _executor(plan, staging, scheduler, watcher) as executor:
            run = _Run(plan, _shared(plan, sources, staging), staging, executor, watcher)
            run.all_stages()
        run.report.seconds = time.perf_counter() - started
        run.report.peak_bytes = memory.peak_bytes
        run.finish(identities)
        staging.publish()
    except OSError as error:
        staging.discard()
        raise RunError(
            f"{error.filename or staging.path}: {error.strerror or error}; nothing was published "
            f"and {out} is what it was before. Correct that, then run again"
        ) from error
    except BaseException:
        staging.discard()
        raise
    return run.report


def _public(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity fit to be published: addresses may carry passwords and signatures."""
    return {n: without_secrets(v) if isinstance(v, str) else v for n, v in identity.items()}


def _shared(plan: Plan, sources: Mapping[str, Source], staging: Staging) -> Mapping[str, Source]:
    """Put arrays in memory where worker processes can map them, instead of sending them along."""
    if plan.resources.serial:
        return sources
    folder = staging.path / _INPUTS
    folder.mkdir(mode=0o700)
    return {
        n: s.saved(folder / f"{n}.npy") if isinstance(s, ArraySource) else s
        for n, s in sources.items()
    }


@contextmanager
def _executor(
    plan: Plan, staging: Staging, scheduler: str | None, watcher: Watcher
) -> Iterator[Executor]:
    if plan.resources.serial:
        yield SerialExecutor()
        return
    with _client(plan, staging, scheduler) as client:
        watcher.say(f"dashboard: {client.dashboard_link}")
        threads = sum(client.nthreads().values())
        yield DaskExecutor(client, threads, staging.token)


def _client(plan: Plan, staging: Staging, scheduler: str | None) -> AbstractContextManager[Client]:
    if scheduler is not None:
        return remote_client(scheduler)
    scratch = staging.path / _WORKERS
    scratch.mkdir(mode=0o700)
    return local_client(plan.resources, plan.resources.memory, scratch)


class _Run:
    """The state of a run: values known so far, and what was measured."""

    def __init__(
        self,
        plan: Plan,
        sources: Mapping[str, Source],
        staging: Staging,
        executor: Executor,
        watcher: Watcher,
    ) -> None:
        self.plan, self.spec = plan, plan.spec
        self.sources, self.staging = sources, staging
        self.executor, self.watcher = executor, watcher
        self.values: dict[str, Any] = {}
        self.report = Report(staging.out, planned_bytes=plan.peak_bytes)

    def all_stages(self) -> None:
        """Lay out every array, then run the stages in order."""
        for name, array in self.plan.arrays.items():
            path = self.staging.path / name
            if array.output:
                create_image(path, name, array.type, array.levels)
            else:
                path.parent.mkdir(exist_ok=True)
                create_scratch(path, array.type, array.levels[0].chunks)
        for stage in self.plan.stages:
            self._stage(stage)

    def _stage(self, stage: Stage) -> None:
        self.watcher.stage(stage.name, len(stage.blocks))
        started = time.perf_counter()
        result = self.executor.run(self._program(stage), self._parts(stage), self.watcher.tick)
        self._finish_reductions(stage, result)
        seconds = time.perf_counter() - started
        self.report.stages.append(StageReport(stage.name, seconds, result.stats))

    def _program(self, stage: Stage) -> Program:
        shared = {v: self.values[v] for v in stage.values if not self._per_block(v)}
        return Program(
            spec=_needed(self.spec, stage),
            stage=stage,
            sources={
                r.step: self.sources[r.step]
                if r.array is None
                else self._target(r.array, r.level).source()
                for r in stage.reads
            },
            targets={(w.array, w.level): self._target(w.array, w.level) for w in stage.writes},
            values=shared,
            device=self.plan.resources.device,
        )

    def _target(self, array: str, level: int) -> ArrayTarget:
        scratch = not self.plan.arrays[array].output
        return ArrayTarget(self.staging.path / array, None if scratch else level)

    def _per_block(self, step: str) -> bool:
        return isinstance(self.values[step], PerBlock)

    def _parts(self, stage: Stage) -> Callable[[int], dict[str, Any]]:
        split = {v: self.values[v] for v in stage.values if self._per_block(v)}
        return lambda index: {v: value.part(index) for v, value in split.items()}

    def _finish_reductions(self, stage: Stage, result: BlockResult) -> None:
        """Turn the folds of a stage into values and tables, then compute values from values."""
        for step_id in stage.reduces:
            step = self.spec[step_id]
            with blamed(step, "the partials of all blocks, finishing them"):
                made = finish_step(self.spec, step, result.partials[step_id], self.values)
            self.values[step_id] = made
        for step in self.spec.steps:
            if step.id not in self.values and self._only_needs_values(step.id):
                with blamed(step, "values of the whole image"):
                    self.values[step.id] = compute_step(self.spec, step, self.values)

    def _only_needs_values(self, step_id: str) -> bool:
        step = self.spec[step_id]
        is_value = isinstance(step.type, ValueType) and not self.spec.image_inputs(step)
        return is_value and all(i in self.values for i in step.inputs)

    def finish(self, identities: Mapping[str, Any]) -> None:
        """Write tables, values and the record; remove what was only needed on the way."""
        for folder in _PASSING:
            shutil.rmtree(self.staging.path / folder, ignore_errors=True)
        for name, step_id in self.spec.outputs.items():
            self._write_output(name, step_id)
        if self.report.values:
            values = {n: value_json(v) for n, v in self.report.values.items()}
            write_json(self.staging.path / "values.json", values)
        write_json(self.staging.path / MARKER, self._marker(identities))

    def _write_output(self, name: str, step_id: str) -> None:
        type_ = self.spec[step_id].type
        if isinstance(type_, ImageType):
            levels = len(self.plan.arrays[name].levels)
            kept = {"path": name, "shape": list(type_.grid.shape), "levels": levels}
            self.report.outputs[name] = {"kind": type_.kind, **kept, "dtype": type_.dtype.name}
        elif isinstance(type_, TableType):
            rows = write_table(self.staging.path / f"{name}.parquet", self.values[step_id])
            self.report.outputs[name] = {"kind": "table", "path": f"{name}.parquet", "rows": rows}
        else:
            self.report.values[name] = self.values[step_id]
            self.report.outputs[name] = {"kind": "value", "path": "values.json"}

    def _marker(self, identities: Mapping[str, Any]) -> dict[str, Any]:
        measured = self.report.to_json()
        del measured["out"]
        return {
            "format": RECORD_FORMAT,
            "pipeline": self.plan.pipeline.to_json(),
            "digest": self.plan.pipeline.digest,
            "inputs": dict(identities),
            "versions": library_versions(),
            "measured": measured,
        }


def _needed(spec: Spec, stage: Stage) -> Spec:
    """Return the part of the pipeline that a stage's workers need."""
    wanted = {*stage.steps, *(r.step for r in stage.reads), *stage.values}
    steps = tuple(s for s in spec.steps if s.id in wanted)
    return Spec(spec.pipeline, spec.parameters, steps, {})
