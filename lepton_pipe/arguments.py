"""Read the command line of ``run``, ``sweep``, ``plan`` and ``check``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lepton_pipe.api import Pipeline, Plan, open_image
from lepton_pipe.errors import UsageError
from lepton_pipe.flags import (
    Parser,
    add_check,
    add_explain,
    add_opening,
    add_parameter,
    add_run,
    refuse_unknown_flags,
    sparse_words,
)
from lepton_pipe.options import RUN_OPTIONS

if TYPE_CHECKING:
    from lepton_pipe.check import CheckResult

COMMANDS = {
    "run": "run a pipeline and publish its results",
    "sweep": "run a pipeline for several values of its parameters at once, and compare the results",
    "plan": "show what a run would do: stages, blocks, memory, time; runs nothing",
    "check": "prove on a part of the image that blocks give the same result as the whole",
    "status": "show where a run stands: while it runs, after it was stopped, when it is complete",
    "verify": "compare every file of a result with what was written when it was made; mend it",
    "clean": "remove what a run that was stopped left beside its output; never the output",
    "list": "list the pipelines that ship with lepton_pipe",
    "demo": "find the galaxies in a Hubble picture; needs nothing prepared",
}

_GENERAL_EPILOG = """\
exit status: 0 complete, 1 usage, 2 failed (nothing published), 3 published but for what is listed
in quarantine.json (see --on-error), 4 refused before starting, 130/143 stopped by a signal. An
output that is there is never touched without --overwrite or --update.
"""


@dataclass
class Request:
    """What was asked for on the command line."""

    pipeline: Pipeline
    images: dict[str, str] = field(default_factory=dict)
    out: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    opening: dict[str, dict[str, Any]] = field(default_factory=dict)
    swept: dict[str, list[Any]] = field(default_factory=dict)
    part: int = 128
    json: bool = False
    plan_only: bool = False
    explain: bool = False
    help_text: str | None = None

    def sources(self) -> dict[str, Any]:
        """Open the images."""
        tolerant = self.options.get("on_error", "fail") != "fail"
        return {
            n: open_image(p, **self.opening.get(n, {}), tolerant=tolerant)
            for n, p in self.images.items()
        }

    def plan(self) -> Plan:
        """Plan what was asked for."""
        if self.out is None:
            raise UsageError("out=PATH is missing: name the directory to publish the results in")
        pipeline = self.pipeline.sweep(**self.swept) if self.swept else self.pipeline
        pipeline.split((), {**self.images, **self.parameters})
        return pipeline.plan(out=self.out, **self.options, **self.sources(), **self.parameters)

    def check(self) -> CheckResult:
        """Check what was asked for."""
        from lepton_pipe.check import check

        self.pipeline.split((), {**self.images, **self.parameters})
        return check(self.pipeline, part=self.part, **self.sources(), **self.parameters)


def wants_help(word: str) -> bool:
    """Tell whether a word asks for help."""
    return word in ("-h", "--help", "help")


def general_help() -> str:
    """Return the help of the command as a whole."""
    lines = ["usage: lepton-pipe COMMAND ...", ""]
    lines += [f"  {name:7} {text}" for name, text in COMMANDS.items()]
    lines += [
        "",
        "  lepton-pipe run nuclei raw=cells.ome.zarr out=cells_seg.zarr --sigma 3",
        "  lepton-pipe sweep nuclei raw=cells.ome.zarr out=cells_sweep.zarr --sigma 1,2,3",
        "  lepton-pipe run nuclei --help",
        "",
        _GENERAL_EPILOG,
    ]
    return "\n".join(lines).rstrip()


def parse(command: str, argv: Sequence[str]) -> Request:
    """Read the words after a command.

    Raises
    ------
    UsageError
        When a word is not understood; names it and what was meant, where that can be guessed.
    """
    from lepton_pipe.catalogue import find_pipeline, shipped_pipelines

    if not argv or wants_help(argv[0]) or argv[0].startswith("-"):
        names = ", ".join(shipped_pipelines())
        if argv and wants_help(argv[0]):
            return Request(_NOTHING, help_text=_command_help(command, names))
        raise UsageError(
            f"lepton-pipe {command} needs a pipeline first: one of {names}, or a file such as "
            "mine.py or mine.py:name"
        )
    pipeline = find_pipeline(argv[0])
    parser = _parser(command, pipeline, argv[0])
    if any(wants_help(word) and word.startswith("-") for word in argv[1:]):
        return Request(pipeline, help_text=parser.format_help().rstrip())
    refuse_unknown_flags(parser, argv[1:])
    words = sparse_words(argv[1:], pipeline)
    return _request(command, pipeline, parser.parse_intermixed_args(words))


def parse_output(command: str, argv: Sequence[str]) -> argparse.Namespace:
    """Read the words after a command about an output: its place ``out``, and ``json``."""
    told = command in ("status", "verify")
    repair = " [--repair [--pipeline NAME_OR_FILE]]" if command == "verify" else ""
    parser = Parser(
        prog=f"lepton-pipe {command}",
        usage=f"lepton-pipe {command} OUT{repair}{' [--json]' if told else ''}",
        description=COMMANDS[command],
        allow_abbrev=False,
    )
    parser.add_argument(
        "out", metavar="OUT", help="the output of the run, as it was named with out="
    )
    if told:
        parser.add_argument("--json", action="store_true", help="print it as JSON")
    if command == "verify":
        parser.add_argument(
            "--repair",
            action="store_true",
            help="make again what is damaged: runs the pipeline that made the result, from the "
            "file that is noted in it, for those blocks; removes what is extra",
        )
        parser.add_argument(
            "--pipeline",
            metavar="NAME_OR_FILE",
            help="with --repair, what made the result, if it is not where it was; files that a "
            "result at a URL names are not run without it",
        )
    parser.add_argument(
        "--staging",
        metavar="DIR",
        help="where the result of a run to a URL was made, or is made again; by default the "
        "current folder",
    )
    refuse_unknown_flags(parser, argv)
    found = parser.parse_args(argv)
    # As it was written in the command that is asked about.
    found.out = found.out.removeprefix("out=")
    return found


def _command_help(command: str, names: str) -> str:
    return (
        f"usage: lepton-pipe {command} NAME_OR_FILE IMAGE=PATH ... "
        f"{'out=PATH ' if command != 'check' else ''}[--flags]\n\n{COMMANDS[command]}\n\n"
        f"pipelines: {names}; or a file of your own, mine.py or mine.py:name\n"
        f"flags and images of a pipeline: lepton-pipe {command} NAME_OR_FILE --help"
    )


def _parser(command: str, pipeline: Pipeline, name: str) -> Parser:
    images = " ".join(
        f"{i}=PATH" if required else f"[{i}=PATH]" for i, required in pipeline.images.items()
    )
    places = images if command == "check" else f"{images} out=PATH"
    parser = Parser(
        prog=f"lepton-pipe {command} {name}",
        usage=f"lepton-pipe {command} {name} {places} [--flags]",
        description=pipeline.summary,
        epilog=None if command == "check" else _GENERAL_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("places", nargs="*", help=argparse.SUPPRESS)
    own = parser.add_argument_group(f"parameters of {pipeline.name}")
    for parameter in pipeline.parameters.values():
        add_parameter(own, parameter, several=command == "sweep")
    add_opening(parser)
    if command == "check":
        add_check(parser)
    else:
        add_run(parser)
    if command == "sweep":
        parser.add_argument("--plan", action="store_true", help=COMMANDS["plan"])
    if command in ("plan", "sweep"):
        add_explain(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    return parser


def _request(command: str, pipeline: Pipeline, found: argparse.Namespace) -> Request:
    request = Request(pipeline, json=found.json, explain=getattr(found, "explain", False))
    for word in found.places:
        name, equals, path = word.partition("=")
        if not equals or not path:
            raise UsageError(
                f"{word!r} is not understood; images and the output are given as NAME=PATH: "
                + " ".join(f"{i}=PATH" for i in (*pipeline.images, "out"))
            )
        if name in request.images or (name == "out" and request.out is not None):
            raise UsageError(f"{name}= is given twice; which one is meant?")
        if name == "out":
            request.out = path
        else:
            request.images[name] = path
    prefix = "parameter "
    request.parameters = {
        n.removeprefix(prefix): v
        for n, v in vars(found).items()
        if n.startswith(prefix) and v is not None
    }
    if command == "sweep":
        request.plan_only = found.plan or found.explain
        _take_out_swept(request)
    request.opening = _opening(pipeline, found)
    if command == "check":
        request.part = found.part
    else:
        request.options = {n: getattr(found, n) for n in RUN_OPTIONS if n not in ("out", "sparse")}
    return request


def _take_out_swept(request: Request) -> None:
    """Tell the parameters that are swept over from those of a single value."""
    several, pipeline = request.parameters, request.pipeline
    request.swept = {n: v for n, v in several.items() if len(v) > 1}
    request.parameters = {n: v[0] for n, v in several.items() if n not in request.swept}
    if not request.swept:
        such = next((n.replace("_", "-") for n in pipeline.parameters), "sigma")
        raise UsageError(
            f"no parameter of {pipeline.name} has several values, so there is nothing to sweep "
            f"over: give them with commas between, such as --{such} 1,2,3, or use lepton-pipe run"
        )


def _opening(pipeline: Pipeline, found: argparse.Namespace) -> dict[str, dict[str, Any]]:
    opening: dict[str, dict[str, Any]] = {}
    for option in ("level", "axes", "scale", "unit"):
        for word in getattr(found, f"input_{option}") or []:
            name, equals, text = word.rpartition("=")
            names = [name] if equals else list(pipeline.images)
            for image in names:
                if image not in pipeline.images:
                    raise UsageError(
                        f"--input-{option} {word}: there is no image {image!r}; there are "
                        f"{', '.join(pipeline.images)}"
                    )
                opening.setdefault(image, {})[option] = _opening_value(option, text)
    for name in found.sparse:
        for image in [name] if name else list(pipeline.images):
            if image not in pipeline.images:
                raise UsageError(
                    f"--sparse {name}: there is no image {name!r}; there are "
                    f"{', '.join(pipeline.images)}"
                )
            opening.setdefault(image, {})["sparse"] = True
    return opening


def _opening_value(option: str, text: str) -> Any:
    try:
        if option == "level":
            return int(text)
        if option == "scale":
            numbers = [float(t) for t in text.split(",")]
            return numbers[0] if len(numbers) == 1 else numbers
    except ValueError as error:
        raise UsageError(f"--input-{option} {text!r} is not a number") from error
    return text


_NOTHING: Any = None
