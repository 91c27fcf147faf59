"""The command line, ``lepton-pipe COMMAND``: see `lepton_pipe.arguments.COMMANDS`."""

from __future__ import annotations

import json
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from types import FrameType
from typing import TYPE_CHECKING, Any

from lepton_pipe.arguments import Request, general_help, parse, parse_output, wants_help
from lepton_pipe.errors import ExitStatus, LeptonError, RunError, UsageError
from lepton_pipe.heap import one_heap
from lepton_pipe.streams import open_streams, silence, told_on_stderr, unwritable, words_may_be_lost

if TYPE_CHECKING:
    from argparse import Namespace

    from lepton_pipe.run.verify import Verified


_UNWRITTEN = "standard output could not be written to"


class _Terminated(BaseException):
    """SIGTERM arrived."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status (see `ExitStatus`)."""
    one_heap()
    open_streams()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup asked for just that
            signal.signal(number, _terminate)
    try:
        return _outcome(argv)
    finally:
        # Else the interpreter fails on what waits there at its end, and the status is 120.
        for stream in (sys.stdout, sys.stderr):
            unwritable(stream)


def _outcome(argv: Sequence[str] | None) -> int:
    """Run the command line; whatever happens, return the status that says so."""
    try:
        return _told(_dispatch(list(sys.argv[1:] if argv is None else argv)))
    except LeptonError as error:
        _say(f"lepton-pipe: {error}")
        return int(error.exit_status)
    except MemoryError:
        _say(
            "lepton-pipe: this process ran out of memory; nothing was published. Give less --memory"
        )
        return int(ExitStatus.FAILED)
    except BrokenPipeError:
        # Whoever read our output has gone (``lepton-pipe list | head``); do not complain at exit.
        for stream in (sys.stdout, sys.stderr):
            silence(stream)
        runs = (sys.argv[1:] if argv is None else list(argv))[:1] in (["run"], ["sweep"], ["demo"])
        return int(ExitStatus.FAILED if runs else ExitStatus.COMPLETE)
    except Exception as error:  # noqa: BLE001  whatever it is, the status must say that it failed
        if isinstance(error, OSError) and _is_of_print(error):
            silence(sys.stdout)
            _say(f"lepton-pipe: {_UNWRITTEN} ({error.strerror})")
            return int(ExitStatus.FAILED)
        with words_may_be_lost():
            traceback.print_exc()
        _say("lepton-pipe: this is a fault in lepton_pipe, not in what you did; please report it")
        return int(ExitStatus.FAILED)
    except KeyboardInterrupt:
        return _stopped("interrupted", ExitStatus.INTERRUPTED)
    except _Terminated:
        return _stopped("terminated", ExitStatus.TERMINATED)


def _told(status: int) -> int:
    """Return the status of a command, once all that it told has been taken."""
    if why := unwritable(sys.stdout):
        raise RunError(f"{_UNWRITTEN} ({why})")
    return status


def _is_of_print(error: OSError) -> bool:
    """Tell whether printing failed: the last that was called from here."""
    return traceback.extract_tb(error.__traceback__)[-1].filename == __file__


def _stopped(how: str, status: ExitStatus) -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the process ends; once more changes nothing
    _say(f"lepton-pipe: {how}; nothing was published, the output is what it was before")
    return int(status)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise _Terminated


def _say(text: str) -> None:
    with words_may_be_lost():
        print(text, file=sys.stderr, flush=True)


def _dispatch(argv: list[str]) -> int:
    command = argv[0] if argv else "--help"
    if wants_help(command):
        print(general_help())
        return 0 if argv else int(ExitStatus.USAGE)
    if command == "--version":
        from lepton_pipe import __version__

        print(f"lepton-pipe {__version__}")
        return 0
    commands = {
        "run": _run,
        "sweep": _sweep,
        "plan": _plan,
        "check": _check,
        "status": _status,
        "verify": _verify,
        "clean": _clean,
        "list": _list,
        "demo": _demo,
    }
    if command not in commands:
        raise UsageError(
            f"there is no command {command!r}; there are {', '.join(commands)} (see --help)"
        )
    return commands[command](argv[1:])


def _list(argv: list[str]) -> int:
    from lepton_pipe.catalogue import shipped_pipelines

    known = shipped_pipelines()
    if "--json" in argv:
        _print_json({name: p.summary for name, p in known.items()})
        return 0
    for name, pipeline in known.items():
        print(f"{name:12} {pipeline.summary}")
    print("\nlepton-pipe run NAME --help shows what a pipeline takes.")
    return 0


def _request(command: str, argv: list[str]) -> Request | None:
    """Return what was asked for; None when help was, and has been given."""
    request = parse(command, argv)
    if request.help_text is not None:
        print(request.help_text)
        return None
    return request


def _run(argv: list[str]) -> int:
    request = _request("run", argv)
    return 0 if request is None else _run_as_asked(request)


def _sweep(argv: list[str]) -> int:
    request = _request("sweep", argv)
    if request is None:
        return 0
    return _show_plan(request) if request.plan_only else _run_as_asked(request)


def _run_as_asked(request: Request) -> int:
    with told_on_stderr() if request.json else nullcontext():
        plan = request.plan()
        if not request.json:
            _say(str(plan))
        report = plan.run(progress=True)
    try:
        if request.json:
            _print_json(report.to_json())
        else:
            print(report)
        sys.stdout.flush()
    except OSError as error:  # it is published, whether somebody reads this or not
        silence(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            _say(f"{report.out} is published and whole; the report went nowhere: {error.strerror}")
    return int(ExitStatus.QUARANTINED if report.quarantine else ExitStatus.COMPLETE)


def _plan(argv: list[str]) -> int:
    request = _request("plan", argv)
    return 0 if request is None else _show_plan(request)


def _show_plan(request: Request) -> int:
    plan = request.plan()
    if request.json:
        _print_json(plan.to_json())
    else:
        print(plan)
        if request.explain:
            print(plan.explain())
    return 0


def _check(argv: list[str]) -> int:
    request = _request("check", argv)
    if request is None:
        return 0
    with told_on_stderr() if request.json else nullcontext():
        result = request.check()
    if request.json:
        _print_json(result.to_json())
    else:
        print(result)
    return 0 if result.equal else int(ExitStatus.FAILED)


def _status(argv: list[str]) -> int:
    from lepton_pipe.run.hidden import HiddenFolder
    from lepton_pipe.run.remote_look import status_of
    from lepton_pipe.store.output import local_of, output_at

    request = parse_output("status", argv)
    found = status_of(output_at(request.out, request.staging))
    if request.json:
        _print_json(found.to_json())
    else:
        print(found)
    # Who asks for a path of which nothing is known has another one in mind.
    absent = found.state == "nothing" and not HiddenFolder(local_of(found.out)).is_there()
    return int(ExitStatus.USAGE) if absent else 0


def _verify(argv: list[str]) -> int:
    from lepton_pipe.run.remote_look import verify_any
    from lepton_pipe.store.output import output_at

    request = parse_output("verify", argv)
    if not request.repair and (request.pipeline or request.staging):
        raise UsageError("--pipeline and --staging are for --repair: verify runs nothing by itself")
    found = _repaired(request) if request.repair else verify_any(output_at(request.out))
    if request.json:
        _print_json(found.to_json())
    else:
        print(found)
    return 0 if found.whole else int(ExitStatus.FAILED)


def _repaired(request: Namespace) -> Verified:
    from lepton_pipe.catalogue import find_pipeline
    from lepton_pipe.repair import repair

    pipeline = None if request.pipeline is None else find_pipeline(request.pipeline)
    return repair(request.out, pipeline=pipeline, staging=request.staging, say=_say, progress=True)


def _clean(argv: list[str]) -> int:
    from lepton_pipe.run.remote_look import clean_any
    from lepton_pipe.store.output import output_at

    request = parse_output("clean", argv)
    print(clean_any(output_at(request.out, request.staging)))
    return 0


def _demo(argv: list[str]) -> int:
    from lepton_pipe.demo import run_demo

    return run_demo(argv)


def _print_json(data: Any) -> None:
    print(json.dumps(data, indent=2))


if __name__ == "__main__":
    sys.exit(main())
