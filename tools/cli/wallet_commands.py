"""``time-cli wallet`` and ``time-cli send``: what they ask for, and what they print.

Options come from `tools.cli.surface`; files are `tools.cli.wallet_file`'s, payments are
`tools.cli.paying`'s. With ``as_json`` each prints one JSON object or list instead of its lines.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson
from rich.console import Console
from rich.table import Table

from node.keys import forbid_dumps
from node.params import KEY_BYTES
from tools.cli import paying, wallet_file
from tools.cli.amounts import format_amount, parse_amount
from tools.cli.errors import CliError, NoAnswer, PaymentError, Refused
from tools.cli.passphrase import Source
from tools.cli.paying import Payment
from tools.cli.places import WALLET_SUFFIX, Place
from tools.cli.transport import Client

NS_PER_MS: Final = 1_000_000


def new(place: Place, name: str, source: Source, *, as_json: bool) -> None:
    """Make a wallet with a new key."""
    path = place.wallet(name)
    chain = place.chain()
    if path.exists():  # before the passphrase is asked for; `create` makes sure
        raise CliError(
            f"{path} is there already, and a wallet is never overwritten",
            "give the new one another name",
        )
    forbid_dumps()
    passphrase = source.ask_new(f"the new wallet {path}")
    wallet = wallet_file.create(path, chain, secrets.token_bytes(KEY_BYTES), passphrase)
    if as_json:
        _print_json({"address": wallet.address, "file": str(path), "chain": chain})
        return
    print(wallet.address)
    print(
        f"Keep a copy of {path}. Without it, or without the passphrase, nobody can spend what is "
        "paid to this address.",
        file=sys.stderr,
    )


def address(place: Place, name: str, *, as_json: bool) -> None:
    """Print a wallet's address."""
    wallet = wallet_file.read(place.wallet(name))
    if as_json:
        _print_json({"address": wallet.address, "file": str(wallet.path), "chain": wallet.chain})
    else:
        print(wallet.address)


def balance(place: Place, name: str, *, as_json: bool) -> None:
    """Print what a wallet can spend now."""
    wallet = wallet_file.read(place.wallet(name))
    client = Client(place.access())
    paying.check_chain(client, wallet)
    units = sum(coin.value for coin in paying.coins_of(client, wallet.address))
    if as_json:
        _print_json({"address": wallet.address, "balance": _exact(units)})
    else:
        print(f"{format_amount(units)} TIME")


def listing(place: Place, *, as_json: bool) -> None:
    """Print the wallets of the chain, with what they hold if a node answers."""
    directory = place.wallets()
    paths = sorted(directory.glob(f"*{WALLET_SUFFIX}")) if directory.is_dir() else []
    rows: list[_Row] = []
    balances = _Balances(place) if paths else None
    for path in paths:
        wallet = wallet_file.read(path)
        units = None if balances is None else balances.of(wallet.address)
        rows.append(_Row(path.stem, wallet.address, units))
    if as_json:
        _print_json(
            [
                {"name": row.name, "address": row.address, "balance": _exact(row.units)}
                for row in rows
            ]
        )
    elif rows:
        _print_table(rows)
    else:
        print(f"no wallets in {directory}; make one with: time-cli wallet new", file=sys.stderr)


class _Row(NamedTuple):
    """A wallet in the list; no units: nobody tells them."""

    name: str
    address: str
    units: int | None


def send(
    place: Place,
    name: str,
    payee: str,
    amount: str,
    source: Source,
    *,
    timeout_s: float,
    confirmed: bool,
    as_json: bool,
) -> None:
    """Pay, and wait until it is final."""
    units = parse_amount(amount)
    wallet = wallet_file.read(place.wallet(name))
    owner = paying.payee_of(payee, wallet)
    client = Client(place.access())
    payment = paying.prepare(client, wallet, owner, units)
    if not confirmed and sys.stdin.isatty():
        _confirm(payment, payee)
    forbid_dumps()
    raw = payment.sign(wallet.open(source.ask(str(wallet.path))))
    began_ns = time.monotonic_ns()
    txid = paying.submit(client, payment, raw)
    height, final_ns = paying.wait(client, txid, timeout_s, time.monotonic_ns)
    took_ms = (final_ns - began_ns) // NS_PER_MS
    if as_json:
        paid = {"txid": txid, "amount": _exact(units), "address": payee}
        fees = {"fee": _exact(payment.plan.fee), "change": _exact(payment.plan.change)}
        _print_json(paid | fees | {"height": height, "final_after_ms": took_ms})
        return
    print(f"paid {format_amount(units)} TIME to {payee}, fee {format_amount(payment.plan.fee)}")
    print(f"final in block {height} after {took_ms:,} ms: {txid}")


def _confirm(payment: Payment, payee: str) -> None:
    """Ask the person at the terminal; raises PaymentError if the answer is not yes."""
    plan = payment.plan
    question = (
        f"Pay {format_amount(plan.amount)} TIME to {payee}, with a fee of "
        f"{format_amount(plan.fee)}? It cannot be taken back. [y/N] "
    )
    print(question, end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise PaymentError("nothing was paid", "answer y, or give --yes")


class _Balances:
    """What addresses hold, as long as a node of this chain tells it; a list of names needs none."""

    def __init__(self, place: Place) -> None:
        self._client: Client | None = None
        try:
            client = Client(place.access())
            if client.value("getblockchaininfo")["chain"] == place.chain():
                self._client = client
        except (NoAnswer, Refused) as error:
            self._unknown(error)

    def of(self, address: str) -> int | None:
        """Units, or None."""
        if self._client is None:
            return None
        try:
            return sum(coin.value for coin in paying.coins_of(self._client, address))
        except (NoAnswer, Refused) as error:
            self._unknown(error)
            return None

    def _unknown(self, error: NoAnswer | Refused) -> None:
        self._client = None
        print(f"balances are not known: {error.message}", file=sys.stderr)


def _print_json(value: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    print(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def _exact(units: int | None) -> orjson.Fragment | None:
    """An amount as the node writes it: a JSON number with all its places."""
    return None if units is None else orjson.Fragment(format_amount(units))


def _print_table(rows: Sequence[_Row]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("name")
    table.add_column("address", overflow="fold")
    table.add_column("TIME", justify="right")
    for row in rows:
        table.add_row(row.name, row.address, "?" if row.units is None else format_amount(row.units))
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False, markup=False)
    console.print(table)
