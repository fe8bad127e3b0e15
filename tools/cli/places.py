"""Where a node and its wallets are: found by the node's data directory.

The chain's name comes from the data directory's genesis.json, the address from its config.toml, the
password from its cookie. Without a data directory there (the node runs as another user, or
elsewhere), ``--network`` names the chain and options the rest. Nothing is written here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.config import RPC_PORTS, parse
from node.datadir import default_datadir, layout
from node.errors import UsageError
from node.genesis import GenesisError, read_genesis
from node.rpc.auth import COOKIE_FILE
from tools.cli.errors import CliError, NoAnswer
from tools.cli.transport import Access
from tools.cli.wallet_file import read_private

MAX_PASSWORD_BYTES: Final = 1_024
EVERYWHERE: Final = ("*", "0.0.0.0", "::")
WALLET_SUFFIX: Final = ".wallet"
DEFAULT_WALLET: Final = "default"


@dataclass(frozen=True, slots=True)
class Place:
    """What the options of a command say about where the node is."""

    datadir: Path | None = None
    network: str | None = None
    rpc: str | None = None
    user: str | None = None
    password_file: Path | None = None

    def merged(self, other: Place) -> Place:
        """These options, and where they say nothing those of another."""
        return Place(
            self.datadir or other.datadir,
            self.network or other.network,
            self.rpc or other.rpc,
            self.user or other.user,
            self.password_file or other.password_file,
        )

    @property
    def root(self) -> Path:
        """The data directory; raises UsageError for an unknown network."""
        if self.network is not None and self.network not in RPC_PORTS:
            raise UsageError(
                f"there is no network {self.network!r}", f"give --network {', '.join(RPC_PORTS)}"
            )
        return layout(self.datadir or default_datadir(self.network or "main")).root

    def chain(self) -> str:
        """The name of the chain; raises CliError if the data directory's genesis is damaged."""
        genesis = layout(self.root).genesis
        if not genesis.exists() and (self.network is not None or self.datadir is None):
            return self.network or "main"
        try:
            return read_genesis(genesis).chain
        except GenesisError as error:
            raise CliError(
                error.cause, "give the node's --datadir, or name the chain with --network"
            ) from None

    def wallets(self) -> Path:
        """The directory of the chain's wallets: not in the data directory, which may be made anew
        at any time.
        """
        return default_datadir("wallets") / self.chain()

    def wallet(self, name: str) -> Path:
        """The file of a wallet; a name with a slash is a path. Raises UsageError."""
        if "/" in name:
            return Path(name).expanduser().absolute()
        if not name or name.startswith(".") or len(name) > 100:
            raise UsageError(f"{name[:40]!r} is no name for a wallet", "take letters and digits")
        return self.wallets() / f"{name}{WALLET_SUFFIX}"

    def access(self) -> Access:
        """Where the node answers and what lets us in; raises CliError, UsageError."""
        root = self.root
        address = self.rpc or self._configured()
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65_536:
            raise UsageError(f"{address!r} is no address of a node", "write --rpc ADDRESS:PORT")
        host = host.removeprefix("[").removesuffix("]")
        return Access(
            host="127.0.0.1" if host in EVERYWHERE else host,
            port=int(port),
            cookie=root / COOKIE_FILE,
            start=f"start it with: timed run --datadir {root}"
            if self.rpc is None
            else "is the address right, and the node running?",
            user=self.user or "",
            password=self._password() if self.user else "",
        )

    def _configured(self) -> str:
        """The address in config.toml."""
        where = layout(self.root)
        try:
            text = where.config.read_bytes()
        except FileNotFoundError:
            raise NoAnswer(
                f"there is no node in {where.root}",
                f"give its --datadir, or make one with: timed init --datadir {where.root}",
            ) from None
        except OSError as error:
            raise NoAnswer(
                f"cannot read {where.config} ({error.strerror})",
                "run as the user that the node runs as, or give --rpc and --user",
            ) from None
        address = parse(text, str(where.config), self.chain()).rpc.listen
        if not address:
            raise NoAnswer(
                f"the node in {where.root} serves no JSON-RPC",
                f"set listen in section [rpc] of {where.config}, and start it again",
            )
        return address

    def _password(self) -> str:
        if self.password_file is None:
            raise UsageError("--user needs a password", "give --password-file")
        data = read_private(
            self.password_file, MAX_PASSWORD_BYTES, "password", "correct --password-file"
        )
        return data.decode("utf-8", "surrogateescape").partition("\n")[0]
