"""``time-bench``: what the node is worth on this machine, as a table and as JSON.

Arguments come in, progress goes to standard error, the table to standard output; ``rounds`` does
the work. Exit status: 0 everything was measured (whatever the figures are), 1 the node misbehaved
while it was measured, 2 the benchmark cannot be carried out, 130 interrupted.
"""

from __future__ import annotations

import dataclasses
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import orjson
import typer
from rich.console import Console

from tools.bench import devnet, rounds, surface
from tools.bench.devnet_plan import DEVNET_QUICK, DevnetScale, figures
from tools.bench.errors import BenchError, BenchFailed, BenchInterrupted
from tools.bench.figures import table
from tools.bench.plan import QUICK, Scale
from tools.bench.surface_plan import FIGURES as SURFACE_FIGURES
from tools.bench.surface_plan import SURFACE_QUICK, SurfaceScale
from tools.bench.workloads import Workbench

STATUS_FAILED = 1
STATUS_USAGE = 2
STATUS_INTERRUPTED = 128 + signal.SIGINT
PLAIN_WIDTH = 160  # columns of the table when it does not go to a terminal

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Benchmarks: everything is measured side by side in one run.",
    epilog="Exit status: 0 measured; 1 the node misbehaved; 2 not carried out; 130 interrupted.",
)

Rounds = Annotated[
    int | None,
    typer.Option("--rounds", help="How often everything is measured, in turns [default: 3]."),
]
Quick = Annotated[
    bool,
    typer.Option("--quick", help="Try the benchmark itself: small loads, figures worthless."),
]
Json = Annotated[Path | None, typer.Option(help="Write the outcome to this file, too.")]
Only = Annotated[
    list[str] | None,
    typer.Option(help="Measure only what gives this figure (* for any letters); repeatable."),
]


@app.callback()
def _options() -> None:
    """Benchmarks: everything is measured side by side in one run."""


@app.command("node")
def node_command(
    rounds_: Rounds = None,
    seconds: Annotated[
        float | None,
        typer.Option(help="How long each load lasts, at least [default: 10]."),
    ] = None,
    transactions: Annotated[
        int | None,
        typer.Option(help="How many transactions each load has, at least [default: 300000]."),
    ] = None,
    quick: Quick = False,
    json: Json = None,
    only: Only = None,
    work: Annotated[
        Path | None,
        typer.Option(help="Where to put workloads and nodes; a real disk [default: a new one]."),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Leave them there; the workloads can be used again."),
    ] = False,
) -> None:
    """Measure the whole node, durable, with real processes: rates beside raw signature
    verification, CPU by stage, loop lag, latencies, memory, idle costs.
    """
    scale = QUICK if quick else Scale()
    scale = dataclasses.replace(
        scale,
        rounds=scale.rounds if rounds_ is None else rounds_,
        seconds=scale.seconds if seconds is None else seconds,
        transactions=scale.transactions if transactions is None else transactions,
    )
    _check_json(json)
    bench = Workbench(_working_directory(work), keep=keep)
    began = time.monotonic()
    tell = _teller(began)
    try:
        outcome = rounds.run(bench, scale, only or (), tell)
    except KeyboardInterrupt:
        raise BenchInterrupted("interrupted; nothing is left behind") from None
    finally:
        bench.clean()
    _write(json, outcome.as_json(["time-bench", *sys.argv[1:]]))
    _show(outcome, time.monotonic() - began)
    if keep:
        tell(f"everything is left in {bench.work}")


@app.command("devnet")
def devnet_command(
    nodes: Annotated[
        int | None, typer.Option(help="Validators on this machine [default: 4].")
    ] = None,
    rounds_: Rounds = None,
    seconds: Annotated[
        float | None, typer.Option(help="How long each load lasts [default: 10].")
    ] = None,
    quick: Quick = False,
    json: Json = None,
    only: Only = None,
    work: Annotated[
        Path | None,
        typer.Option(help="Where to put chains and nodes; a real disk [default: a new one]."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave them there.")] = False,
) -> None:
    """Measure a network of validators that share this machine: rate beside raw signature
    verification, finality, failed rounds under overload, coming back, catching up, a block of
    payments that nobody has seen (verified in one process: an upper bound), and the block rate
    while 100 hostile connections work on one node (from loopback, which nodes do not ban as long as
    their peers are there, and from one process, which takes a third of a core at most).
    """
    scale = DEVNET_QUICK if quick else DevnetScale()
    scale = dataclasses.replace(
        scale,
        nodes=scale.nodes if nodes is None else nodes,
        rounds=scale.rounds if rounds_ is None else rounds_,
        seconds=scale.seconds if seconds is None else seconds,
    )
    _check_json(json)
    directory = _working_directory(work)
    began = time.monotonic()
    tell = _teller(began)
    try:
        outcome = devnet.run(directory, scale, only or (), tell, keep=keep)
    except KeyboardInterrupt:
        raise BenchInterrupted("interrupted; nothing is left behind") from None
    _write(json, outcome.as_json(["time-bench", *sys.argv[1:]]))
    console = _console()
    title = _title(scale.rounds, scale.quick, outcome.machine, time.monotonic() - began)
    found = [one["figures"] for one in outcome.rounds]
    console.print(table(outcome.figures, found, title, figures(scale.nodes, outcome.backend)))
    for key, why in outcome.missing.items():
        console.print(f"not measured: {key} ({why})", style="yellow", soft_wrap=True)
    if keep:
        tell(f"everything is left in {directory}")


@app.command("surface")
def surface_command(
    rounds_: Rounds = None,
    seconds: Annotated[
        float | None,
        typer.Option(help="How long each side of a comparison is measured [default: 10]."),
    ] = None,
    quick: Quick = False,
    json: Json = None,
    only: Only = None,
    work: Annotated[
        Path | None,
        typer.Option(help="Where to put workload and nodes; a real disk [default: a new one]."),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Leave them there; the workload can be used again."),
    ] = False,
) -> None:
    """Measure what wallets and operators see: JSON-RPC beside the bare HTTP library, its latency
    at full load, payments sent through it, what a flood of calls or a monitor does to the node, how
    long it takes to start, and what systemd thinks of its unit.
    """
    scale = SURFACE_QUICK if quick else SurfaceScale()
    scale = dataclasses.replace(
        scale,
        rounds=scale.rounds if rounds_ is None else rounds_,
        seconds=scale.seconds if seconds is None else seconds,
    )
    _check_json(json)
    bench = Workbench(_working_directory(work), keep=keep)
    began = time.monotonic()
    tell = _teller(began)
    try:
        outcome = surface.run(bench, scale, only or (), tell)
    except KeyboardInterrupt:
        raise BenchInterrupted("interrupted; nothing is left behind") from None
    finally:
        bench.clean()
    _write(json, outcome.as_json(["time-bench", *sys.argv[1:]]))
    title = _title(scale.rounds, scale.quick, outcome.machine, time.monotonic() - began)
    found = [one["figures"] for one in outcome.rounds]
    console = _console()
    console.print(table(outcome.figures, found, title, SURFACE_FIGURES))
    for key, why in outcome.missing.items():
        console.print(f"not measured: {key} ({why})", style="yellow", soft_wrap=True)
    if keep:
        tell(f"everything is left in {bench.work}")


def _check_json(json: Path | None) -> None:
    if json is not None and not json.absolute().parent.is_dir():
        raise BenchError(f"{json.parent} is not a directory", "create it, or correct --json")


def _teller(began: float) -> Callable[[str], None]:
    def tell(line: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {line}", file=sys.stderr, flush=True)

    return tell


def _write(json: Path | None, document: dict[str, Any]) -> None:
    if json is None:
        return
    try:
        json.write_bytes(
            orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        )
    except OSError as error:
        raise BenchError(f"cannot write {json}: {error.strerror}", "correct --json") from None


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)


def _title(turns: int, quick: bool, machine: dict[str, Any], took_s: float) -> str:
    title = (
        f"{turns} round(s) in {took_s / 60:.1f} min on {machine['cores']} cores, "
        f"{machine['processor']}, Python {machine['python']}, {machine['file_system']}"
    )
    return f"QUICK: loads too small to mean anything\n{title}" if quick else title


def _working_directory(work: Path | None) -> Path:
    if work is None:
        return Path(tempfile.mkdtemp(prefix="time-bench-"))
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchError(f"cannot make {work}: {error.strerror}", "correct --work") from None
    return work.resolve()


def _show(outcome: rounds.Outcome, took_s: float) -> None:
    console = _console()
    title = _title(outcome.scale.rounds, outcome.scale.quick, outcome.machine, took_s)
    console.print(table(outcome.figures, outcome.round_figures, title))
    for key, why in outcome.missing.items():
        console.print(f"not measured: {key} ({why})", style="yellow", soft_wrap=True)
    short = sorted(
        {
            name
            for one in outcome.rounds
            for name, detail in one["subjects"].items()
            if detail.get("short")
        }
    )
    if short and not outcome.scale.quick:
        console.print(
            f"shorter than asked for, the workload was used up: {', '.join(short)}",
            style="yellow",
            soft_wrap=True,
        )


def _interrupt(_number: int, _frame: FrameType | None) -> Any:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line; the console script ``time-bench``."""
    signal.signal(signal.SIGTERM, _interrupt)  # ends like Ctrl-C: nothing may be left behind
    try:
        status = app(prog_name="time-bench", standalone_mode=False)
    except BenchError as error:
        _end(f"{error}", STATUS_USAGE)
    except BenchFailed as error:
        _end(f"FAILED: {error}", STATUS_FAILED)
    except (BenchInterrupted, KeyboardInterrupt) as error:
        _end(f"{error}", STATUS_INTERRUPTED)
    except Exception as error:
        # Wrong usage: typer's class for it moved between its versions, so it is told by what it
        # carries.
        if hasattr(error, "format_message"):
            _end(f"{error.format_message().rstrip('.')}; see time-bench --help", STATUS_USAGE)
        raise
    sys.exit(status if isinstance(status, int) else 0)


def _end(message: str, status: int) -> NoReturn:
    print(f"time-bench: {message}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
