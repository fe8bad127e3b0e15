"""A payment from beginning to end: what the node knows, a plan, a signature, and its finality.

The node is asked what the wallet's address owns and what a transaction costs; the transaction is
built and signed here, by `node.transaction`, and the node gets nothing but its bytes. The node is
believed about the coins' values: a lying one could make the fee larger than shown, so pay through
your own. The key is in memory between the signature's two ends only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from nacl.signing import SigningKey

from node.address import AddressFormatError, decode_address
from node.genesis import salt_of
from node.params import ID_BYTES
from node.rpc.jsonrpc import Code
from node.transaction import Output, build, txid
from tools.cli.amounts import units_of
from tools.cli.errors import NoAnswer, NotFinal, PaymentError, Refused
from tools.cli.payment import Coin, Plan, Prices, plan
from tools.cli.transport import Client
from tools.cli.wallet_file import Wallet

WAIT_AT_ONCE_S: Final = 60  # for finality, in one call
FINALISED: Final = "finalised"
DOUBTFUL: Final = (Code.IN_WARMUP, Code.VERIFY_ERROR, Code.INTERNAL_ERROR)
"""No verdict in time, kept until its parents arrive, or a mistake of the node's: the transaction
may be final yet, and who pays again pays twice.
"""
NS_PER_MS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment that can be signed: the plan, whose address it goes to, and the chain's salt."""

    plan: Plan
    payee: bytes
    salt: bytes

    def sign(self, key: SigningKey) -> bytes:
        """Return the transaction; what comes back goes to the key itself."""
        outputs = [Output(self.plan.amount, self.payee)]
        if self.plan.change:
            outputs.append(Output(self.plan.change, bytes(key.verify_key)))
        return build([(coin.outpoint, key) for coin in self.plan.coins], outputs, self.salt)


def payee_of(address: str, wallet: Wallet) -> bytes:
    """Return the key behind an address of the wallet's network; raises PaymentError."""
    try:
        return decode_address(address, wallet.prefix)
    except AddressFormatError as error:
        raise PaymentError(
            f"cannot pay to {address[:100]!r}: {error}",
            f"addresses of this network begin with {wallet.prefix}1",
        ) from None


def check_chain(client: Client, wallet: Wallet) -> None:
    """Raise PaymentError unless the node is of the wallet's chain."""
    try:
        chain = client.value("getblockchaininfo")["chain"]
    except (TypeError, KeyError):
        raise _strange("getblockchaininfo") from None
    if chain != wallet.chain:
        raise PaymentError(
            f"the wallet is for the chain {wallet.chain!r}, and the node for {chain!r}",
            "use a wallet, or a node, of the right one",
        )


def coins_of(client: Client, address: str) -> list[Coin]:
    """Return what an address can spend now: final, and not in a payment under way.

    Raises what `Client.call` raises; NoAnswer for an answer in another shape.
    """
    found = client.value("listunspent", {"minconf": 1, "addresses": [address]})
    try:
        return [
            Coin(_id(each["txid"]) + bytes([each["vout"]]), units_of(each["amount"]))
            for each in found
            if each.get("spendable", True)
        ]
    except (TypeError, KeyError, ValueError, AttributeError):
        raise _strange("listunspent") from None


def prepare(client: Client, wallet: Wallet, payee: bytes, amount: int) -> Payment:
    """Ask the node for what is needed and plan the payment; raises PaymentError."""
    check_chain(client, wallet)
    coins = coins_of(client, wallet.address)
    try:
        prices = _prices(client)
        genesis_id = _id(client.value("getblockhash", [0]))
    except (TypeError, KeyError, ValueError):
        raise _strange("what a payment costs") from None
    return Payment(plan(coins, amount, prices), payee, salt_of(genesis_id))


def submit(client: Client, payment: Payment, raw: bytes) -> str:
    """Hand in a signed payment and return its id, which is computed here.

    Raises NotFinal when it is not known whether the node has got it, Refused when it is known that
    it has not.
    """
    expected = txid(raw, payment.salt).hex()
    try:
        told = client.value("sendrawtransaction", [raw.hex()])
    except (NoAnswer, Refused) as error:
        if isinstance(error, Refused):
            if error.code == Code.ALREADY_IN_CHAIN:
                return expected
            if error.code not in DOUBTFUL:
                raise
        reason = error.cause if isinstance(error, NoAnswer) else str(error)
        raise NotFinal(f"{expected} was perhaps handed in: {reason}; {_look(expected)}") from None
    if told != expected:
        raise NotFinal(
            f"{expected} was handed in, and the node calls it {str(told)[:80]!r}; {_look(expected)}"
        )
    return expected


def wait(
    client: Client, transaction: str, timeout_s: float, now_ns: Callable[[], int]
) -> tuple[int, int]:
    """Wait until a transaction is final; return its block's height, and ``now_ns`` then.

    Raises NotFinal when the time is over, or the node is gone.
    """
    until_ns = now_ns() + int(timeout_s * 1_000) * NS_PER_MS
    while (left_ns := until_ns - now_ns()) > 0:
        slice_ms = min(left_ns // NS_PER_MS + 1, WAIT_AT_ONCE_S * 1_000)
        try:
            told = client.value("waittransactionfinality", [transaction, slice_ms])
            if told["status"] == FINALISED:
                return int(told["blockheight"]), now_ns()
        except (NoAnswer, Refused, TypeError, KeyError, ValueError) as error:
            reason = error.cause if isinstance(error, NoAnswer) else str(error)
            raise NotFinal(
                f"{transaction} was handed in, and what became of it is not known: {reason}; "
                f"{_look(transaction)}"
            ) from None
    raise NotFinal(
        f"{transaction} was handed in and is not final after {timeout_s:.0f} s; "
        f"{_look(transaction)}"
    )


def _look(transaction: str) -> str:
    return f"look before you pay again: time-cli gettransactionfinality {transaction}"


def _prices(client: Client) -> Prices:
    policy = client.value("getmempoolinfo")
    rules = client.value("getblockchaininfo")
    return Prices(
        min_fee=units_of(rules["min_fee"]),
        relay_fee_per_kb=units_of(policy["mempoolminfee"]),
        dust_limit=units_of(rules["dust_limit"]),
    )


def _id(digits: str) -> bytes:
    """The 32 bytes of an id; raises ValueError, TypeError for what is none."""
    found = bytes.fromhex(digits)
    if len(found) != ID_BYTES:
        raise ValueError(f"an id of {len(found)} bytes")
    return found


def _strange(method: str) -> NoAnswer:
    return NoAnswer(
        f"the node's answer to {method} has another shape", "is it of the same version as time-cli?"
    )
