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
from node.transaction import Output, build, txid
from tools.cli.amounts import units_of
from tools.cli.errors import NoAnswer, NotFinal, PaymentError
from tools.cli.payment import Coin, Plan, Prices, plan
from tools.cli.transport import Client
from tools.cli.wallet_file import Wallet

WAIT_AT_ONCE_S: Final = 60  # for finality, in one call
FINALISED: Final = "finalised"
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
    chain = client.value("getblockchaininfo")["chain"]
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
            Coin(bytes.fromhex(each["txid"]) + bytes([each["vout"]]), units_of(each["amount"]))
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
        genesis_id = bytes.fromhex(client.value("getblockhash", [0]))
    except (TypeError, KeyError, ValueError):
        raise _strange("what a payment costs") from None
    return Payment(plan(coins, amount, prices), payee, salt_of(genesis_id))


def submit(client: Client, payment: Payment, raw: bytes) -> str:
    """Hand in a signed payment and return its id, which is computed here."""
    expected = txid(raw, payment.salt).hex()
    told = client.value("sendrawtransaction", [raw.hex()])
    if told != expected:
        raise NoAnswer(
            f"the node calls the payment {str(told)[:80]!r}, and it is {expected}",
            "it may have been paid: look at it with: time-cli gettransaction",
        )
    return expected


def wait(
    client: Client, transaction: str, timeout_s: float, now_ns: Callable[[], int]
) -> tuple[int, int]:
    """Wait until a transaction is final; return its block's height, and ``now_ns`` then.

    Raises NotFinal when the time is over.
    """
    until_ns = now_ns() + int(timeout_s * 1_000) * NS_PER_MS
    while (left_ns := until_ns - now_ns()) > 0:
        slice_ms = min(left_ns // NS_PER_MS + 1, WAIT_AT_ONCE_S * 1_000)
        told = client.value("waittransactionfinality", [transaction, slice_ms])
        try:
            if told["status"] == FINALISED:
                return int(told["blockheight"]), now_ns()
        except (TypeError, KeyError, ValueError):
            raise _strange("waittransactionfinality") from None
    raise NotFinal(
        f"{transaction} was handed in and is not final after {timeout_s:.0f} s; "
        f"see time-cli gettransactionfinality {transaction}"
    )


def _prices(client: Client) -> Prices:
    policy = client.value("getmempoolinfo")
    rules = client.value("getblockchaininfo")
    return Prices(
        min_fee=units_of(rules["min_fee"]),
        relay_fee_per_kb=units_of(policy["mempoolminfee"]),
        dust_limit=units_of(rules["dust_limit"]),
    )


def _strange(method: str) -> NoAnswer:
    return NoAnswer(
        f"the node's answer to {method} has another shape", "is it of the same version as time-cli?"
    )
