"""``time-cli`` against a real node: its methods, its errors, and a payment from a new key."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from funded import DUST_LIMIT, VALUE, Funds, key
from rpc_client import Refused, RpcClient
from running_node import DEADLINE_S, RunningNode

from node.address import decode_address, encode_address
from node.rpc.method import REQUIRED
from node.rpc.methods import METHODS
from node.transaction import Output, build
from tools.cli import __main__ as cli
from tools.cli.amounts import format_amount
from tools.ports import free_ports

COMMAND = (sys.executable, "-m", "tools.cli")
PASSPHRASE = "correct horse battery staple"
FEE_OF_THREE_COINS = 4 + 3 * 34 + 2 * 40 + 96  # bytes, at 1,000 units per 1,000 of them
STRANGER = encode_address(b"\x07" * 32, "dtime")


@pytest.fixture(scope="module")
def funds(tmp_path_factory: pytest.TempPathFactory) -> Funds:
    return Funds(tmp_path_factory.mktemp("cli") / "funds", 60)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, funds: Funds) -> Iterator[RunningNode]:
    node = RunningNode(tmp_path_factory.mktemp("asked"), funds.directory)
    try:
        yield node.start()
    finally:
        node.end()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this user's wallets lie, and the passphrase that opens them."""
    home = tmp_path_factory.mktemp("home")
    (home / "passphrase").write_text(f"{PASSPHRASE}\n")
    (home / "passphrase").chmod(0o600)
    return home


class Person:
    """Somebody with a shell, a home directory and a node."""

    def __init__(self, node: RunningNode, home: Path) -> None:
        self.where = ("--datadir", str(node.datadir))
        self.environment = os.environ | {"HOME": str(home), "TERM": "xterm", "COLUMNS": "200"}
        self.secret = ("--passphrase-file", str(home / "passphrase"))

    def runs(self, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command as a program does, with nothing on standard input."""
        done = subprocess.run(
            [*COMMAND, *self.where, *words],
            capture_output=True,
            text=True,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # no terminal, whoever runs the tests
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == status, (words, done.stdout, done.stderr)
        assert PASSPHRASE not in done.stdout + done.stderr
        return done

    def asks(self, *words: str, status: int = 0) -> tuple[str, str]:
        """Run a command that opens no wallet in this process, which is quicker; returns what it
        printed, and what it complained of.
        """
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HOME", self.environment["HOME"])
            with redirect_stdout(out), redirect_stderr(err):
                found = cli.run([*self.where, *words])
        assert found == status, (words, out.getvalue(), err.getvalue())
        return out.getvalue(), err.getvalue()

    def refused(self, *words: str, status: int = 2) -> str:
        """The one line that a command ends with, and nothing else."""
        printed, complaint = self.asks(*words, status=status)
        assert complaint.count("\n") == 1, complaint
        assert complaint.startswith("time-cli: ")
        assert printed == ""
        return complaint

    def value(self, *words: str) -> Any:
        """What a command says with --json."""
        return json.loads(self.asks(*words, "--json")[0], parse_float=Decimal)

    def types(self, *words: str, answers: dict[str, str]) -> tuple[int, str]:
        """Run a command at a terminal, answering each prompt; returns status and the screen."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.execve(sys.executable, [*COMMAND, *self.where, *words], self.environment)
        screen, waiting = "", dict(answers)
        deadline = time.monotonic() + DEADLINE_S
        try:
            while time.monotonic() < deadline:
                if not select.select([terminal], [], [], 1.0)[0]:
                    continue
                try:
                    data = os.read(terminal, 4096)
                except OSError:  # the other side is gone
                    break
                if not data:
                    break
                screen += data.decode(errors="replace")
                for prompt in [each for each in waiting if each in screen]:
                    os.write(terminal, waiting.pop(prompt).encode() + b"\n")
            _, status = os.waitpid(pid, 0)
        finally:
            os.close(terminal)
        assert not waiting, screen
        return os.waitstatus_to_exitcode(status), screen.replace("\r\n", "\n")


@pytest.fixture(scope="module")
def person(node: RunningNode, home: Path) -> Person:
    return Person(node, home)


@pytest.fixture(scope="module")
def wallet(person: Person, funds: Funds) -> str:
    """A new wallet's address, which has been paid five times VALUE."""
    address = person.runs("wallet", "new", *person.secret).stdout.strip()
    owner = decode_address(address, "dtime")
    for number in range(5):
        raw = build(
            [(funds.outpoint(number), key(number)), (funds.outpoint(5 + number), key(5 + number))],
            [Output(VALUE, owner), Output(VALUE - 5_000, bytes(key(0).verify_key))],
            funds.salt,
        )
        txid = person.asks("sendrawtransaction", raw.hex())[0].strip()
    assert person.value("waittransactionfinality", txid)["status"] == "finalised"
    return address


# -- methods -------------------------------------------------------------------------------------


def test_every_method_without_parameters_answers(
    node: RunningNode, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = 0
    for method in METHODS:
        if method.name in ("stop", "listunspent", "disconnectnode"):
            continue  # that ends the node, and these have tests of their own
        if any(param.default is REQUIRED for param in method.params):
            continue
        status = cli.run(["--datadir", str(node.datadir), method.name, "--json"])
        printed = capsys.readouterr()
        assert (status, printed.err) == (0, ""), method.name
        json.loads(printed.out)
        asked += 1
    assert asked > 15


def test_parameters_by_position_and_by_name(person: Person, funds: Funds) -> None:
    genesis = person.runs("getblockhash", "0").stdout.strip()  # for once as a process
    assert re.fullmatch("[0-9a-f]{64}", genesis)
    assert person.value("getblockheader", f"blockhash={genesis}", "verbose=true")["height"] == 0
    address = encode_address(bytes(key(50).verify_key), "dtime")
    (unspent,) = person.value("listunspent", f'addresses=["{address}"]')
    assert unspent["amount"] == Decimal(format_amount(VALUE))
    inputs = json.dumps([{"txid": unspent["txid"], "vout": unspent["vout"]}])
    fee = Decimal(format_amount(5_000))
    outputs = f'[{{"{STRANGER}": {unspent["amount"] - fee}}}]'
    unsigned = person.asks("createrawtransaction", inputs, outputs)[0].strip()
    # A key is never on a command line: it comes on standard input.
    words = [*COMMAND, *person.where, "signrawtransactionwithkey", unsigned, "--stdin", "--json"]
    seed = json.dumps([key(50).encode().hex()])
    done = subprocess.run(
        words, input=seed, capture_output=True, text=True, timeout=DEADLINE_S, check=True
    )
    signed = json.loads(done.stdout)
    assert signed["complete"] is True
    assert person.value("testmempoolaccept", json.dumps([signed["hex"]]))[0]["allowed"] is True


def test_a_key_on_a_command_line_is_refused(person: Person) -> None:
    seed = key(50).encode().hex()
    for word in (f'["{seed}"]', f'privkeys=["{seed}"]', seed):
        complaint = person.refused("signrawtransactionwithkey", "00", word)
        assert "--stdin" in complaint
        assert seed not in complaint
    assert "--stdin" in person.asks("signrawtransactionwithkey", "--help")[0]
    assert "--stdin" in person.value("help", "signrawtransactionwithkey")


def test_a_terminal_gets_tables(person: Person) -> None:
    status, screen = person.types("getblockchaininfo", answers={})
    assert status == 0
    assert re.search(r"^.*chain.*dev", screen, re.MULTILINE)
    assert "{" not in screen
    status, screen = person.types("getblockchaininfo", "--json", answers={})
    assert (status, json.loads(screen)["chain"]) == (0, "dev")


def test_what_the_node_refuses_has_its_code(person: Person) -> None:
    assert person.refused("getblockhash", "99999999", status=1) == (
        "time-cli: error -8: Block height out of range\n"
    )
    assert "error -5" in person.refused("getblock", "00" * 32, status=1)
    assert "error -22" in person.refused("sendrawtransaction", "00", status=1)


def test_what_cannot_be_asked_says_what_to_write(person: Person) -> None:
    assert "getblockcount" in person.refused("getblockcont")
    assert "height" in person.refused("getblockhash", "ten")
    assert "too many" in person.refused("getblockcount", "1")
    assert "--nonsense" in person.refused("wallet", "list", "--nonsense")


def test_a_node_that_is_not_there_says_how_to_start_it(
    tmp_path: Path, node: RunningNode, person: Person, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.toml").write_text((node.datadir / "config.toml").read_text())
    (tmp_path / "genesis.json").write_bytes((node.datadir / "genesis.json").read_bytes())
    where = ["--datadir", str(tmp_path)]
    assert cli.run([*where, "getblockcount"]) == 2
    assert f"timed run --datadir {tmp_path}" in capsys.readouterr().err
    (tmp_path / ".cookie").write_text("__cookie__:" + "00" * 32)
    assert cli.run([*where, "getblockcount"]) == 2  # the cookie of another start, or node
    assert "does not accept" in capsys.readouterr().err
    (port,) = free_ports(1)
    assert cli.run([*where, "--rpc", f"127.0.0.1:{port}", "getblockcount"]) == 2
    assert f"no node answers at 127.0.0.1:{port}" in capsys.readouterr().err


def test_the_shell_completes_methods_and_parameters(person: Person) -> None:
    def completed(*words: str) -> list[str]:
        environment = person.environment | {
            "_TIME_CLI_COMPLETE": "complete_bash",
            "COMP_WORDS": "\n".join(("time-cli", *words)),
            "COMP_CWORD": str(len(words)),
        }
        done = subprocess.run(
            COMMAND, capture_output=True, text=True, env=environment, timeout=DEADLINE_S, check=True
        )
        return done.stdout.split()

    assert completed("getblockh") == ["getblockhash", "getblockheader"]
    assert completed("wal") == ["wallet"]
    assert completed("wallet", "b") == ["balance"]
    assert completed("getblock", "v") == ["verbosity="]


# -- wallets -------------------------------------------------------------------------------------


def test_a_payment_from_a_new_key_becomes_final(person: Person, wallet: str) -> None:
    before = Decimal(person.asks("wallet", "balance")[0].split()[0])
    assert before == Decimal(format_amount(5 * VALUE))
    amount = Decimal("0.02345678")
    done = person.runs("send", STRANGER, str(amount), *person.secret)
    paid, final = done.stdout.splitlines()
    fee = Decimal(paid.split()[-1])
    assert paid.startswith(f"paid {amount} TIME to {STRANGER}")
    found = re.fullmatch(r"final in block (\d+) after ([\d,]+) ms: ([0-9a-f]{64})", final)
    assert found is not None, final
    finality = person.value("gettransactionfinality", found[3])
    assert (finality["status"], finality["blockheight"]) == ("finalised", int(found[1]))
    assert fee == Decimal(format_amount(FEE_OF_THREE_COINS))
    assert person.value("getbalance", STRANGER) == amount
    # Change came back to the same address.
    assert person.value("wallet", "balance")["balance"] == before - amount - fee
    assert person.value("wallet", "list") == [
        {"name": "default", "address": wallet, "balance": before - amount - fee}
    ]
    done = person.runs("send", STRANGER, "0.01", *person.secret, "--json")
    again = json.loads(done.stdout, parse_float=Decimal)
    assert (again["amount"], again["address"]) == (Decimal("0.01"), STRANGER)
    assert again["final_after_ms"] >= 0
    assert person.value("getbalance", STRANGER) == amount + Decimal("0.01")


@pytest.mark.usefixtures("wallet")
def test_what_cannot_be_paid_says_why(person: Person) -> None:
    pay = ("send", STRANGER)
    assert "9 places" in person.refused(*pay, "0.123456789")
    assert re.search(r"has 0\.0\d+ TIME, and 5\.0+ with a fee", person.refused(*pay, "5"))
    assert "less than an output may hold" in person.refused(*pay, format_amount(DUST_LIMIT - 1))
    other = encode_address(b"\x07" * 32, "ttime")
    assert "belongs to another network" in person.refused("send", other, "0.01")
    assert "checksum" in person.refused("send", STRANGER[:-1] + "q", "0.01")
    assert "wallet new" in person.refused("send", STRANGER, "0.01", "--wallet", "none")
    assert "no terminal" in person.runs(*pay, "0.001", status=2).stderr


def test_wrong_passphrases_and_names_in_use(person: Person, wallet: str, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("something else")
    wrong.chmod(0o600)
    pay = ("send", STRANGER, "0.001", "--passphrase-file", str(wrong))
    assert "does not open" in person.runs(*pay, status=2).stderr
    wrong.chmod(0o644)
    assert "chmod 600" in person.runs(*pay, status=2).stderr
    assert "never overwritten" in person.refused("wallet", "new", *person.secret)
    assert person.asks("wallet", "address")[0].strip() == wallet


def test_a_person_at_a_terminal(person: Person, wallet: str) -> None:
    status, screen = person.types(
        *("wallet", "new", "typed"),
        answers={"Passphrase of": PASSPHRASE, "The same again": PASSPHRASE},
    )
    assert (status, PASSPHRASE in screen) == (0, False)
    address = re.search("dtime1[0-9a-z]+", screen)
    assert address is not None
    status, screen = person.types(
        *("wallet", "new", "unequal"),
        answers={"Passphrase of": PASSPHRASE, "The same again": "something else"},
    )
    assert (status, "differ" in screen) == (2, True)
    status, screen = person.types(
        *("send", address[0], "0.001"),
        answers={"It cannot be taken back. [y/N]": "y", "Passphrase of": PASSPHRASE},
    )
    assert (status, "final in block" in screen) == (0, True), screen
    assert PASSPHRASE not in screen
    status, screen = person.types(
        *("send", address[0], "0.001"), answers={"It cannot be taken back. [y/N]": "n"}
    )
    assert (status, "nothing was paid" in screen) == (2, True)
    assert wallet not in screen


def test_neither_keys_nor_passphrases_are_in_the_log(
    node: RunningNode, person: Person, wallet: str, funds: Funds
) -> None:
    """Whatever the level: signed over RPC, refused in several ways, sent from a wallet."""
    processes = [each["name"] for each in node.status()["processes"]]
    person.value("logging", json.dumps(dict.fromkeys(processes, "debug")))
    seed = key(51).encode().hex()
    rpc = RpcClient.of(node)
    inputs = [{"txid": funds.outpoint(51)[:-1].hex(), "vout": funds.outpoint(51)[-1]}]
    made = rpc.call("createrawtransaction", inputs, {STRANGER: format_amount(VALUE - 5_000)})
    signed = rpc.call("signrawtransactionwithkey", made, [seed])
    assert signed["complete"] is True
    sent = rpc.call("sendrawtransaction", signed["hex"])
    for params in ([made, seed], [made, [seed + "00"]], [made, [[seed]]], [seed, [seed]], [seed]):
        with pytest.raises(Refused):
            rpc.call("signrawtransactionwithkey", *params)
    assert rpc.call("waittransactionfinality", sent)["final"]
    rpc.close()
    person.runs("send", STRANGER, "0.001", "--yes", *person.secret)
    person.value("logging", json.dumps(dict.fromkeys(processes, "info")))
    log = node.log.read_text()
    assert '"level":"debug"' in log
    for secret in (seed, PASSPHRASE, (node.datadir / ".cookie").read_text().partition(":")[2]):
        assert secret not in log


def test_stop_ends_the_node(node: RunningNode, person: Person) -> None:
    assert "stopping" in person.asks("stop")[0]
    assert node.process is not None
    assert node.process.wait(DEADLINE_S) == 0
    assert f"timed run --datadir {node.datadir}" in person.refused("getblockcount")
    node.process = None
