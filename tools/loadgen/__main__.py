"""``time-load``: prepares signed payments, sends them to a node, and says if it told the truth.

Arguments come in, progress and tables go to standard error and output; the work is done by
``workload`` and ``sender``. Exit status: 0 all is well, 1 the node gave wrong, missing or double
answers, 2 the command cannot be carried out.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from tools.loadgen.errors import LoadError
from tools.loadgen.sender import LoadOptions, Progress, run_load
from tools.loadgen.target import endpoints
from tools.loadgen.workload import (
    MAX_BLOCK_BYTES,
    MAX_BLOCK_TRANSACTIONS,
    Kind,
    WorkloadOptions,
    prepare,
)
from tools.loadgen.workload_file import SUMMARY_NAME

STATUS_WRONG = 1
STATUS_USAGE = 2

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Load for a node: makes signed payments in advance, sends them, checks every answer.",
    epilog="Exit status: 0 all is well; 1 wrong, missing or double answers; 2 not carried out.",
)


@app.command("prepare")
def prepare_command(
    directory: Annotated[Path, typer.Argument(help="A new directory for the workload.")],
    transactions: Annotated[int, typer.Option(help="How many transactions to make.")],
    kind: Annotated[
        Kind,
        typer.Option(
            help="1in: one input; 4in: four inputs of four owners; mixed: half of each; chained: "
            "chains of 20 in which each spends the change of the one before. Two outputs each."
        ),
    ] = Kind.ONE_INPUT,
    outputs: Annotated[
        int,
        typer.Option(help="Outputs in the genesis, spent or not; 0: as many as are spent."),
    ] = 0,
    bad_signatures: Annotated[
        float, typer.Option(help="Share of transactions (0 to 1) with a bad signature.")
    ] = 0.0,
    double_spends: Annotated[
        float,
        typer.Option(help="Share of transactions (0 to 0.5) that spend what another one spends."),
    ] = 0.0,
    seed: Annotated[str, typer.Option(help="The same seed and options give the same bytes.")] = "1",
    chain: Annotated[str, typer.Option(help="Name of the chain: main, test or dev.")] = "dev",
    max_block_bytes: Annotated[
        int, typer.Option(help="Genesis limit: bytes of a block's transactions.")
    ] = MAX_BLOCK_BYTES,
    max_block_transactions: Annotated[
        int, typer.Option(help="Genesis limit: transactions of a block.")
    ] = MAX_BLOCK_TRANSACTIONS,
) -> None:
    """Make a funded genesis, its validator's key, and signed transactions that spend it."""
    options = WorkloadOptions(
        transactions=transactions,
        kind=kind,
        outputs=outputs,
        bad_signatures=bad_signatures,
        double_spends=double_spends,
        seed=seed,
        chain=chain,
        max_block_bytes=max_block_bytes,
        max_block_transactions=max_block_transactions,
    )
    started = time.monotonic()
    with PreparationView(Console(stderr=True)) as view:
        prepare(directory, options, view.show)
    Console().print(
        f"{transactions:,} transactions in {directory} after {time.monotonic() - started:.1f} s; "
        f"{SUMMARY_NAME} says what they are",
        soft_wrap=True,
    )


@app.command("run")
def run_command(
    directory: Annotated[Path, typer.Argument(help="A workload made by time-load prepare.")],
    ingest: Annotated[
        str | None, typer.Option(help="Where the node takes transactions: tcp://127.0.0.1:24302.")
    ] = None,
    notify: Annotated[
        str | None, typer.Option(help="Where it announces blocks; default: ingest's port + 1.")
    ] = None,
    datadir: Annotated[
        Path | None, typer.Option(help="Read both from the config.toml of this data directory.")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Transactions per second, open loop. Without it: flat out."),
    ] = None,
    duration: Annotated[
        float | None, typer.Option(help="Stop sending after so many seconds.")
    ] = None,
    count: Annotated[int | None, typer.Option(help="Send so many transactions.")] = None,
    first: Annotated[int, typer.Option(help="Begin with this one; the first is 0.")] = 0,
    batch: Annotated[
        int, typer.Option(help="Transactions in a request, at most (1 to 1024).")
    ] = 256,
    in_flight: Annotated[
        int, typer.Option(help="Unanswered requests of a client, at most (1 to 64).")
    ] = 32,
    clients: Annotated[int, typer.Option(help="Connections to send over, in turns.")] = 1,
    tick_ms: Annotated[
        float,
        typer.Option(help="With --rate: milliseconds between requests, at least."),
    ] = 2.0,
    max_unconfirmed: Annotated[
        int,
        typer.Option(help="Flat out: admitted and not final yet, at most; 0: no limit."),
    ] = 50_000,
    resubmit: Annotated[
        bool,
        typer.Option(
            "--resubmit",
            help="Expect restarts: repeat what is not answered or was refused for load, ask again "
            "about what does not become final, and take KNOWN and FINAL for an answer.",
        ),
    ] = False,
    allow_shedding: Annotated[
        bool,
        typer.Option(
            "--allow-shedding",
            help="Refusals for load (MEMPOOL_FULL, BUSY, …) are counted but are no failure.",
        ),
    ] = False,
    answer_timeout: Annotated[
        float, typer.Option(help="Seconds after which a request counts as unanswered.")
    ] = 5.0,
    drain_timeout: Annotated[
        float, typer.Option(help="Seconds without any news after which the run ends.")
    ] = 15.0,
    json: Annotated[Path | None, typer.Option(help="Write the report to this file, too.")] = None,
) -> None:
    """Send a workload to a node, check every verdict, and report rates and latencies."""
    ingest, notify = _where(ingest, notify, datadir)
    options = LoadOptions(
        directory=directory,
        ingest=ingest,
        notify=notify,
        rate_per_s=rate,
        duration_s=duration,
        first=first,
        count=count,
        batch=batch,
        in_flight=in_flight,
        clients=clients,
        tick_ms=tick_ms,
        max_unconfirmed=max_unconfirmed,
        resubmit=resubmit,
        allow_shedding=allow_shedding,
        answer_timeout_s=answer_timeout,
        drain_timeout_s=drain_timeout,
    )
    if json is not None and not json.parent.is_dir():
        raise LoadError(f"{json.parent} is not a directory", "create it, or correct --json")
    with RunView(Console(stderr=True)) as view:
        report = run_load(options, view.show)
    if json is not None:
        try:
            json.write_bytes(report.to_json())
        except OSError as error:
            raise LoadError(f"cannot write {json}: {error.strerror}", "correct --json") from None
    report.print(Console())
    if not report.ok:
        raise typer.Exit(STATUS_WRONG)


def _where(ingest: str | None, notify: str | None, datadir: Path | None) -> tuple[str, str]:
    if datadir is not None:
        from_datadir = endpoints(datadir)
        return ingest or from_datadir[0], notify or from_datadir[1]
    if ingest is None:
        raise LoadError("no node is named", "give --ingest tcp://ADDRESS:PORT, or --datadir")
    if notify is None:
        head, _, port = ingest.rpartition(":")
        if not port.isdigit():
            raise LoadError(f"{ingest} has no port", "write --ingest as tcp://ADDRESS:PORT")
        notify = f"{head}:{int(port) + 1}"
    return ingest, notify


class PreparationView:
    """Progress of making: bars on a terminal, a line for each finished part elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tasks: dict[str, TaskID] = {}
        self._bars = Bars(
            TextColumn("{task.description:14}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
            console=console,
            auto_refresh=False,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> PreparationView:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, what: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` are made."""
        if self._console.is_terminal:
            if what not in self._tasks:
                self._tasks[what] = self._bars.add_task(what, total=total)
            self._bars.update(self._tasks[what], completed=done, refresh=True)
        elif done == total:
            self._console.print(f"{what}: {total:,}", soft_wrap=True)


class RunView:
    """Progress of a run: one line a second, redrawn on a terminal, appended elsewhere."""

    def __init__(self, console: Console) -> None:
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            console=console,
            auto_refresh=False,
            disable=not console.is_terminal,
        )
        self._console = console
        self._task: TaskID | None = None

    def __enter__(self) -> RunView:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, progress: Progress) -> None:
        """Show how far the run is."""
        line = (
            f"{progress.elapsed_s:5.0f} s  sent {progress.sent:,} ({progress.sent_per_s:,.0f}/s)  "
            f"accepted {progress.accepted:,}  rejected {progress.answered - progress.accepted:,}  "
            f"final {progress.finalised:,} ({progress.finalised_per_s:,.0f}/s)  "
            f"waiting {progress.in_flight}"
        )
        if not self._console.is_terminal:
            self._console.print(line, soft_wrap=True, highlight=False)
            return
        if self._task is None:
            self._task = self._bars.add_task(line, total=progress.to_send)
        self._bars.update(self._task, description=line, completed=progress.sent, refresh=True)


def main() -> None:
    """Run the command line; the console script ``time-load``."""
    try:
        app(prog_name="time-load")
    except LoadError as error:
        print(f"time-load: {error}", file=sys.stderr)
        sys.exit(STATUS_USAGE)


if __name__ == "__main__":
    main()
