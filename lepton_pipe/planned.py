"""A run that is planned and can be printed, compared and run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_pipe.device import choose_device, device_count
from lepton_pipe.device.direct import refuse_direct
from lepton_pipe.errors import UsageError, without_secrets
from lepton_pipe.options import (
    RunOptions,
    check_counts,
    check_device_memory,
    check_replacing,
    checked_levels,
    memory_bytes,
)
from lepton_pipe.spec import ImageType, Spec

if TYPE_CHECKING:
    from lepton_pipe import plan as plans
    from lepton_pipe.report.report import Report
    from lepton_pipe.run.changes import Changes
    from lepton_pipe.run.machine import Size
    from lepton_pipe.run.probe import Probe
    from lepton_pipe.run.published import Spoilt
    from lepton_pipe.store.source import Source


class Plan:
    """What a run will do: print it, compare it, run it.

    Attributes
    ----------
    spec
        The pipeline, bound to its images and parameters.
    data
        The plan itself, as frozen data.
    reference
        What the command line calls the pipeline; None where it cannot.
    spoilt
        What of the output is damaged and to be made again as it was; None where it is not to be
        repaired.
    """

    def __init__(
        self,
        bind: Callable[[Mapping[str, ImageType]], Spec],
        sources: Mapping[str, Source],
        out: str | Path,
        options: RunOptions,
        reference: str | None = None,
        spoilt: Spoilt | None = None,
    ) -> None:
        from lepton_pipe.plan import cut_notes, has_own_kernels
        from lepton_pipe.run.digests import digest_notes
        from lepton_pipe.run.earlier import death_notes, died, earlier_run
        from lepton_pipe.run.probe import lost_notes
        from lepton_pipe.run.published import refuse_without_ledger
        from lepton_pipe.run.refusals import refuse_places, run_output, staging_notes
        from lepton_pipe.store.output import local_of

        self.sources, self.options = sources, options
        self.reference, self.spoilt = reference, spoilt
        self.spec = bind({n: s.type for n, s in sources.items()})
        self.out = run_output(out, options.staging, scheduler=options.scheduler)
        check_replacing(options)
        if options.update and local_of(self.out).exists():
            refuse_without_ledger(local_of(self.out))
        refuse_places(self.out, sources, overwrite=options.replaces)
        for source in sources.values() if options.on_error == "fail" else ():
            source.refuse_incomplete()
        self._earlier = earlier_run(local_of(self.out), options)
        # Only kernels of the user's own are not known to leave their process alone.
        self._died = has_own_kernels(self.spec) and died(local_of(self.out))
        self._unsent = self._kernel_not_sent() if has_own_kernels(self.spec) else ""
        self.rates, probed = self._measure(bind)
        self.notes, self._lost = list(probed.notes), bool(probed.lost)
        self.data: plans.Plan = self._make()
        self.notes += [f"input {n}: {note}" for n, s in sources.items() for note in s.notes()]
        self.notes += [*cut_notes(self.data), *staging_notes(self.out, self.data)]
        unsent = f"no worker process can be sent {self._unsent}; blocks run in this process alone"
        self.notes += [unsent] if self._unsent else []
        self.notes += death_notes(self.data) if self._died else []
        self.notes += lost_notes(self.data) if self._lost else []
        self.notes += self._machine_notes() if options.scheduler is None else []
        self.changes = self._changes()
        if options.digest:
            self.notes += digest_notes(sources, looked=self.changes is not None)

    def _kernel_not_sent(self) -> str:
        """Return which kernel has to stay in this process, and refuse workers that were asked for.

        Raises
        ------
        UsageError
            When there are to be workers.
        """
        from lepton_pipe.spec.sent import why_not_sent

        found, o = why_not_sent(self.spec), self.options
        if found and not o.serial and (o.workers is not None or o.scheduler is not None):
            raise UsageError(
                f"a kernel cannot be sent to worker processes: {found}. Make what it holds inside "
                "of it, or leave out --workers and --scheduler: then this process runs it"
            )
        return found

    def _machine_notes(self) -> list[str]:
        """Return what is to be known of this machine and the plan; of others nobody knows."""
        from lepton_pipe.run.compiling import compile_notes
        from lepton_pipe.run.machine import beyond_notes

        o = self.options
        counts, memory = (o.workers or o.threads) is not None, o.memory is not None
        beyond = beyond_notes(self.data, counts_given=counts, memory_given=memory)
        return [*beyond, *compile_notes(self.data)]

    def _measure(
        self, bind: Callable[[Mapping[str, ImageType]], Spec]
    ) -> tuple[plans.Rates, Probe]:
        """Return what is known of this machine, and of kernels that do not say what they need."""
        from lepton_pipe.run.probe import probe
        from lepton_pipe.run.rates import machine_rates, save

        rates = machine_rates() if self._earlier is None else self._earlier.rates
        asked = self.options.memory
        memory = None if asked is None else memory_bytes(asked)
        found = probe(self.spec, bind, self.sources, rates, memory)
        if found.scratch:
            rates = found.added_to(rates)
            save(found.added_to(machine_rates()))
        return rates, found

    def _make(self) -> plans.Plan:
        from lepton_pipe.plan import InputInfo, make_plan, parse_chunks, plan_where_it_pays
        from lepton_pipe.run.refusals import refuse_space
        from lepton_pipe.store.copying import copyable
        from lepton_pipe.worker.direct import is_direct

        o = self.options
        inputs = {
            n: InputInfo(
                s.type,
                s.chunks,
                without_secrets(s.uri),
                copied=copyable(s) is not None,
                plain=o.device_direct and is_direct(s),
            )
            for n, s in self.sources.items()
        }
        free = o.workers is None and o.scheduler is None and not o.serial
        where_it_pays = partial(
            plan_where_it_pays,
            apart=self._is_apart(),
            sendable=not self._unsent,
            at_once=o.threads,
        )
        make = where_it_pays if free else make_plan
        made = make(
            self.spec,
            inputs,
            self._resources(),
            rates=self.rates,
            chunks=parse_chunks(o.chunks),
            levels=checked_levels(o.levels),
            # Which of the processes of a cluster elsewhere runs a block, nobody knows beforehand.
            keep="disk" if o.scheduler is not None else o.keep,
            parts=() if self._earlier is None else self._earlier.parts,
        )
        refuse_space(self.out, made)
        return made

    def _is_apart(self) -> bool:
        """Tell whether the run is to outlive a kernel that ends its process."""
        from lepton_pipe.plan import has_own_kernels

        # One that goes on stays with the workers that it had.
        had = self._earlier is not None and not self._earlier.resources.in_process
        goes_past = self.options.on_error != "fail" and has_own_kernels(self.spec)
        return had or self._died or self._lost or goes_past

    def _resources(self) -> plans.Resources:
        """Return what the run may use: as told, of the given cluster, or of this machine."""
        from lepton_pipe.plan import Resources
        from lepton_pipe.run.addresses import refuse_address

        o = self.options
        check_counts(o)
        if o.scheduler is not None:
            refuse_address(o.scheduler, insecure=o.insecure)
        if self._earlier is not None:
            return self._earlier.resources
        device = choose_device(o.device)
        check_device_memory(o, device)
        if o.device_direct:
            refuse_direct(device)
        size = self._size(device)
        return Resources(
            memory=memory_bytes(o.memory) if o.memory is not None else size.memory,
            workers=size.workers,
            threads=size.threads,
            device=device,
            serial=o.serial,
            device_memory=self._device_memory(size.workers) if device == "gpu" else 0,
            direct=o.device_direct,
        )

    def _device_memory(self, workers: int) -> int:
        """Return what each worker may take of its GPU, which several may have to share."""
        from lepton_pipe.run.machine import default_device_memory

        wanted = self.options.device_memory
        here = memory_bytes(wanted) if wanted is not None else default_device_memory()
        return here // -(-workers // max(1, device_count()))

    def _size(self, device: str) -> Size:
        o = self.options
        if o.scheduler is not None and not o.serial:
            # Dask is loaded by runs that use it alone.
            from lepton_pipe.run.cluster import cluster_size

            return cluster_size(o.scheduler)
        from lepton_pipe.run.machine import this_machine

        workers = o.workers
        if device == "gpu" and workers is None:
            workers = device_count()  # a context of CUDA is for one device
        return this_machine(workers, o.threads)

    def _changes(self) -> Changes | None:
        """Return what an update will compute; None where there is nothing to update."""
        from lepton_pipe.run.changes import changes_at

        out = self.out if self.options.update else None
        return changes_at(out, self.data, self.sources, self.spoilt)

    def __str__(self) -> str:
        from lepton_pipe.report.plan_text import plan_text

        lines = [plan_text(self.data, str(self.out)), *(f"  note: {n}" for n in self.notes)]
        if self.changes is not None:
            lines.append(str(self.changes))
        return "\n".join(lines)

    def explain(self) -> str:
        """Return why each stage has the blocks it has, and what the next best would have cost."""
        from lepton_pipe.report.explain_text import explain_text

        return explain_text(self.data, self.rates)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        update = {} if self.changes is None else {"update": self.changes.to_json()}
        return {"out": str(self.out), **self.data.to_json(), **update}

    def run(self, *, progress: bool | None = None) -> Report:
        """Run the plan and publish its results at `out`.

        Parameters
        ----------
        progress
            Show progress on stderr; by default where it is a terminal.

        Returns
        -------
        Report
            What was made and measured.

        Raises
        ------
        RunError
            When a block failed. Nothing was published; `out` is what it was before. With
            ``on_error="skip"`` or ``"fill"`` the report's ``quarantine`` lists such blocks instead.
        """
        from lepton_pipe.report.memory import own_bytes
        from lepton_pipe.report.progress import Silent, Terminal
        from lepton_pipe.run.asked import asked
        from lepton_pipe.run.driver import run_plan
        from lepton_pipe.run.earlier import planned_with
        from lepton_pipe.run.rates import learn
        from lepton_pipe.run.unchanged import leave_as_is

        if self.changes is not None and self.changes.same:
            # Looked at once more: the plan may have been made a while ago.
            self.changes = self._changes()
            if self.changes is not None and self.changes.same:
                return leave_as_is(self.changes.out)
        held = own_bytes()
        shown = sys.stderr.isatty() if progress is None else progress
        with Terminal() if shown else nullcontext(Silent()) as watcher:
            report = run_plan(
                self.data,
                self.sources,
                self.out,
                watcher=watcher,
                overwrite=self.options.overwrite,
                update=self.options.update,
                scheduler=self.options.scheduler,
                on_error=self.options.on_error,
                stall=self.options.stall,
                planned_with=planned_with(self.options.planning(), self.data, self.rates),
                asked=asked(self.reference, self.spec, self.sources, self.options.asked()),
                spoilt=self.spoilt,
            )
            if self.options.scheduler is None:
                learn(self.data, report, held)
            return report
