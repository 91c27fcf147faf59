"""The command line: ``lepton-pipe list | run | plan | check | demo``."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

from lepton_pipe.arguments import Request, general_help, parse, wants_help
from lepton_pipe.errors import ExitStatus, LeptonError, UsageError


class _Terminated(BaseException):
    """SIGTERM arrived."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status (see `ExitStatus`)."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup asked for just that
            signal.signal(number, _terminate)
    try:
        return _dispatch(list(sys.argv[1:] if argv is None else argv))
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
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        runs = (sys.argv[1:] if argv is None else list(argv))[:1] in (["run"], ["demo"])
        return int(ExitStatus.FAILED if runs else ExitStatus.COMPLETE)
    except Exception:  # noqa: BLE001  whatever it is, the status must say that the run failed
        traceback.print_exc()
        _say("lepton-pipe: this is a fault in lepton_pipe, not in what you did; please report it")
        return int(ExitStatus.FAILED)
    except KeyboardInterrupt:
        _say("lepton-pipe: interrupted; nothing was published, the output is what it was before")
        return int(ExitStatus.INTERRUPTED)
    except _Terminated:
        _say("lepton-pipe: terminated; nothing was published, the output is what it was before")
        return int(ExitStatus.TERMINATED)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise _Terminated


def _say(text: str) -> None:
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
    commands = {"list": _list, "run": _run, "plan": _plan, "check": _check, "demo": _demo}
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
    if request is None:
        return 0
    plan = request.plan()
    if not request.json:
        _say(str(plan))
    report = plan.run(progress=True)
    with suppress(BrokenPipeError):  # it is published, whether somebody reads this or not
        if request.json:
            _print_json(report.to_json())
        else:
            print(report, flush=True)
    return 0


def _plan(argv: list[str]) -> int:
    request = _request("plan", argv)
    if request is None:
        return 0
    plan = request.plan()
    if request.json:
        _print_json(plan.to_json())
    else:
        print(plan)
    return 0


def _check(argv: list[str]) -> int:
    request = _request("check", argv)
    if request is None:
        return 0
    result = request.check()
    if request.json:
        _print_json(result.to_json())
    else:
        print(result)
    return 0 if result.equal else int(ExitStatus.FAILED)


def _demo(argv: list[str]) -> int:
    from lepton_pipe.demo import run_demo

    return run_demo(argv)


def _print_json(data: Any) -> None:
    print(json.dumps(data, indent=2))


if __name__ == "__main__":
    sys.exit(main())
