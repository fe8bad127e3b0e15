"""config.toml: every key declared once, read strictly, explained in the example that ``timed
init`` writes.

Text comes from the data directory's config.toml and leaves as a frozen ``Config``. The declaration
below (type, bounds, default, description) is the only one: the parser, the error messages and the
commented example are all derived from it, so they cannot drift apart. Nothing here touches a file
or a socket. A wrong configuration never gets past this module: it ends as a ``ConfigError``, one
line that names the file, the key and what to write instead.
"""

from __future__ import annotations

import difflib
import json
import re
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from node.errors import ConfigError

MAX_CONFIG_BYTES: Final = 64 * 1024
"""A config.toml above this is not one: the commented example has a tenth of it."""

MAX_SHOWN: Final = 80
"""Characters of what an operator wrote that an error repeats."""

RPC_PORTS: Final[Mapping[str, int]] = {"main": 24101, "test": 24201, "dev": 24301}
"""Network name -> RPC port; ingest listens on the port after it, notifications on the next."""

Endpoint = Annotated[
    str, Meta(pattern=r"^tcp://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+|\*):[0-9]{1,5}\Z")
]
"""A ZeroMQ endpoint, tcp://ADDRESS:PORT; the port's range is checked by ``port_of``."""

PeerAddress = Annotated[
    str, Meta(pattern=r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}\Z", max_length=300)
]
"""Where a node listens for others, ADDRESS:PORT; the port's range is checked by ``port_of``."""

OptionalPeerAddress = Annotated[
    str, Meta(pattern=r"^((\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5})?\Z", max_length=300)
]


class NetworkSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Addresses that clients connect to, and the other nodes."""

    listen: Annotated[
        Endpoint,
        Meta(
            description="Where clients send transactions (ZeroMQ ROUTER). Whoever reaches this "
            "address may submit, so keep it on loopback or inside a trusted network."
        ),
    ]
    notify: Annotated[
        Endpoint,
        Meta(description="Where new blocks are announced (ZeroMQ PUB), once they are final."),
    ]
    peer_listen: Annotated[
        OptionalPeerAddress,
        Meta(
            description='Where other nodes connect to this one (TCP), as "0.0.0.0:24104"; nobody '
            "can if it is empty."
        ),
    ] = ""
    peers: Annotated[
        tuple[PeerAddress, ...],
        Meta(
            max_length=200,
            description="Nodes to stay connected with, whatever happens: those of the other "
            "validators, on a validator.",
        ),
    ] = ()
    max_inbound: Annotated[
        int,
        Meta(
            ge=0,
            le=10_000,
            description="Nodes that may have connected to this one at once. Those in peers and "
            "proven validators always find a place.",
        ),
    ] = 64
    max_outbound: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000,
            description="Nodes that this one looks for by itself, beside those in peers.",
        ),
    ] = 8


class VerifySection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Signature verification."""

    backend: Annotated[
        Literal["auto", "avx512", "nacl"],
        Meta(
            description="auto takes avx512 where processor and packages allow it, else nacl. Both "
            "give the same verdicts; avx512 is about five times as fast."
        ),
    ] = "auto"
    workers: Annotated[
        int, Meta(ge=0, le=64, description="Verifier processes; 0 chooses from the cores.")
    ] = 0


class MempoolSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What this node holds and relays. Policy only: never part of what makes a block valid."""

    max_transactions: Annotated[
        int, Meta(ge=1, le=10_000_000, description="Transactions waiting for a block, at most.")
    ] = 100_000
    max_mb: Annotated[
        int, Meta(ge=1, le=65_536, description="Their bytes together, in MiB (2^20 bytes).")
    ] = 64
    relay_fee_per_kb: Annotated[
        int,
        Meta(ge=0, le=10**11, description="Lowest fee accepted, in units per 1,000 bytes."),
    ] = 1_000
    max_ancestors: Annotated[
        int,
        Meta(ge=1, le=1_000, description="Longest line of unconfirmed ancestors of a transaction."),
    ] = 25
    replacement_increment: Annotated[
        int,
        Meta(
            ge=1,
            le=10**12,
            description="Units of fee that a replacement pays above all that it replaces.",
        ),
    ] = 1_000
    expiry_s: Annotated[
        int,
        Meta(
            ge=1, le=31_536_000, description="Seconds after which a waiting transaction is dropped."
        ),
    ] = 259_200
    max_orphans: Annotated[
        int,
        Meta(
            ge=0, le=1_000_000, description="Transactions held until their parent arrives, at most."
        ),
    ] = 10_000
    max_orphan_mb: Annotated[
        int, Meta(ge=1, le=4_096, description="Their bytes together, in MiB (2^20 bytes).")
    ] = 8


class BlockSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When blocks are made."""

    pace_ms: Annotated[
        int,
        Meta(
            ge=10,
            le=60_000,
            description="Milliseconds from one block to the next while transactions wait.",
        ),
    ] = 200
    empty_pace_s: Annotated[
        int,
        Meta(ge=1, le=86_400, description="Seconds after which an empty block is made."),
    ] = 60


class StoreSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Memory of the database."""

    cache_mb: Annotated[
        int, Meta(ge=8, le=1_048_576, description="Read cache of the database, in MiB.")
    ] = 64
    write_buffer_mb: Annotated[
        int, Meta(ge=4, le=65_536, description="Write buffers of the database, in MiB.")
    ] = 32
    address_index: Annotated[
        bool,
        Meta(
            description="Keep the unspent outputs by address, for listunspent and getbalance. "
            "Switched on, the next start builds it; switched off, the next start removes it."
        ),
    ] = True


class PipelineSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Processes and the memory between them."""

    cores: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=1_000,
            description="auto places processes when there are cores enough, off leaves them to the "
            'kernel, and a map such as "net=0,verify=1-3,consensus=0" decides.',
        ),
    ] = "auto"
    trays: Annotated[
        int,
        Meta(
            ge=8,
            le=4_096,
            description="Trays that circulate between the stages; each takes about 0.4 MiB, and "
            "0.3 MiB more for every verifier after the first.",
        ),
    ] = 64
    fuse: Annotated[
        tuple[Literal["net", "verify", "consensus"], ...],
        Meta(
            max_length=3,
            description='Stages that share one process. ["net", "verify"] shows what happens when '
            "signatures are verified where the sockets are; leave it empty otherwise.",
        ),
    ] = ()
    net_memory_mb: Annotated[
        int,
        Meta(
            ge=0,
            le=1_048_576,
            description="Resident memory, trays not counted, above which the stage with the "
            "sockets is restarted, in MiB: a hostile client can make the socket library hold a "
            "message that never ends. 0 is no limit.",
        ),
    ] = 256


class RpcSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """JSON-RPC over HTTP, for wallets, and the pages of metrics and health."""

    listen: Annotated[
        OptionalPeerAddress,
        Meta(
            description="Where JSON-RPC, /metrics, /healthz and /readyz are served (HTTP); nowhere "
            "if it is empty. Passwords and answers are not encrypted: keep it on loopback, or "
            "behind a proxy that speaks TLS and passes on nothing but /: from this machine "
            "/metrics wants no password."
        ),
    ]
    rpcauth: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^[^:$]{1,64}:[0-9a-zA-Z]{1,64}\$[0-9a-f]{64}\Z")], ...],
        Meta(
            max_length=32,
            description="Users beside the cookie in the data directory, each NAME:SALT$DIGEST with "
            "the HMAC-SHA256 of the password under the salt, as Bitcoin Core's rpcauth tool prints "
            "them.",
        ),
    ] = ()
    max_connections: Annotated[
        int, Meta(ge=1, le=1_000, description="Connections at once; more are closed.")
    ] = 64
    max_body_kb: Annotated[
        int, Meta(ge=16, le=65_536, description="Size of a request's body, in KiB (2^10 bytes).")
    ] = 4_096
    max_batch: Annotated[int, Meta(ge=1, le=10_000, description="Calls in one batch.")] = 1_000
    workers: Annotated[
        int, Meta(ge=1, le=64, description="Requests that are worked on at once.")
    ] = 8
    work_queue: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000,
            description="Requests that wait for their turn; more are answered with status 503.",
        ),
    ] = 64
    max_waits: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000,
            description="Calls of waittransactionfinality at once, which wait and do no work.",
        ),
    ] = 32
    timeout_s: Annotated[
        int,
        Meta(
            ge=1,
            le=3_600,
            description="Seconds in which a request must have arrived, and for which a connection "
            "may say nothing.",
        ),
    ] = 30
    memory_mb: Annotated[
        int,
        Meta(
            ge=0,
            le=1_048_576,
            description="Resident memory above which this stage is restarted, in MiB. 0 is no "
            "limit.",
        ),
    ] = 512


class LogSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the node writes to standard error, one event a line."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="The least important kind of event that is written."),
    ] = "info"
    format: Annotated[
        Literal["auto", "human", "json"],
        Meta(description="auto writes for people on a terminal and JSON elsewhere."),
    ] = "auto"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of config.toml, one field a section."""

    network: NetworkSection
    verify: VerifySection
    mempool: MempoolSection
    block: BlockSection
    store: StoreSection
    pipeline: PipelineSection
    rpc: RpcSection
    log: LogSection


def network_of(chain: str) -> str:
    """The network (a key of ``RPC_PORTS``) of a chain's genesis name; private chains count as
    dev.
    """
    return chain if chain in RPC_PORTS else "dev"


def defaults(network: str) -> Config:
    """The configuration of a node of ``network`` (a key of ``RPC_PORTS``) whose config.toml is
    empty.
    """
    rpc_port = RPC_PORTS[network_of(network)]
    return Config(
        network=NetworkSection(
            listen=f"tcp://127.0.0.1:{rpc_port + 1}", notify=f"tcp://127.0.0.1:{rpc_port + 2}"
        ),
        verify=VerifySection(),
        mempool=MempoolSection(),
        block=BlockSection(),
        store=StoreSection(),
        pipeline=PipelineSection(),
        rpc=RpcSection(listen=f"127.0.0.1:{rpc_port}"),
        log=LogSection(),
    )


def keys() -> Iterator[tuple[str, str]]:
    """Every (section, key) that config.toml may hold, in the order of the declaration."""
    for section, struct in _SECTIONS.items():
        for field in struct.__struct_fields__:
            yield section, field


def port_of(endpoint: str) -> int:
    """The port of a tcp:// endpoint or of a peer's address."""
    return int(endpoint.rpartition(":")[2])


def listening(config: Config) -> list[tuple[str, str, str]]:
    """Where the node listens: section, key and address, without those that are empty."""
    network = config.network
    listed = [
        ("network", "listen", network.listen),
        ("network", "notify", network.notify),
        ("network", "peer_listen", network.peer_listen),
        ("rpc", "listen", config.rpc.listen),
    ]
    return [each for each in listed if each[2]]


def parse(text: bytes, path: str, network: str) -> Config:
    """Read config.toml strictly; what it leaves out has the default of ``network``.

    ``path`` is only named in errors. Raises ``ConfigError`` for invalid TOML, an unknown section
    or key, a value of the wrong type or out of range, and combinations that cannot work.
    """
    document = _load(text, path)
    merged = msgspec.to_builtins(defaults(network))
    for section, table in document.items():
        if section not in _SECTIONS:
            raise _unknown_section(section, table, path)
        if not isinstance(table, dict):
            raise ConfigError(
                f"{section} in {path} is not a section",
                f"write a line [{section}] and its keys below it",
            )
        for key, value in table.items():
            if key not in _TYPES[section]:
                raise _unknown_key(section, key, path)
            _check_value(section, key, value, path)
            merged[section][key] = value
    config = msgspec.convert(merged, Config, strict=True)
    _check_together(config, path)
    return config


def example(network: str) -> str:
    """A config.toml in which every key is explained and commented out at its default."""
    values = msgspec.to_builtins(defaults(network))
    lines = [
        "# Configuration of timed. Every key is shown with its default: remove the # before a key",
        "# to change it, then restart the node; for log.level a SIGHUP will do. What is wrong with",
        "# this file, timed check says.",
    ]
    for section, struct in _SECTIONS.items():
        lines += ["", f"# {(struct.__doc__ or '').strip()}", f"[{section}]"]
        for key in struct.__struct_fields__:
            about = f"{_meta(section, key, 'description')} Takes {_expected(section, key)}."
            lines += ["", *textwrap.wrap(about, 96, initial_indent="# ", subsequent_indent="# ")]
            lines.append(f"#{key} = {_toml(values[section][key])}")
    return "\n".join(lines) + "\n"


def _load(text: bytes, path: str) -> dict[str, Any]:
    if len(text) > MAX_CONFIG_BYTES:
        raise ConfigError(
            f"{path} has {len(text):,} bytes, more than {MAX_CONFIG_BYTES:,}",
            "keep only the keys that you change",
        )
    try:
        return tomllib.loads(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path} line {line} is not UTF-8 text", "save the file as UTF-8"
        ) from None
    except tomllib.TOMLDecodeError as error:
        found = re.fullmatch(
            r"(.*) \(at (line \d+, column \d+|end of document)\)", str(error), re.S
        )
        what, where = found.groups() if found else (str(error), "an unknown place")
        raise ConfigError(
            f"{path} is not valid TOML at {where}: {_cut(what[:1].lower() + what[1:])}",
            'correct that line (keys are written as name = value, text in "quotes")',
        ) from None
    except RecursionError:
        raise ConfigError(
            f"{path} has arrays or tables nested too deeply",
            "remove them: no key takes more than a list of texts",
        ) from None
    except ValueError as error:  # Python's own limit: tomllib hands it on as it is
        raise ConfigError(
            f"{path} holds a number with too many digits ({_cut(str(error))})",
            "write a number in the range that the comment above its key gives",
        ) from None


def _unknown_section(section: str, table: object, path: str) -> ConfigError:
    if not isinstance(table, dict):
        homes = [home for home, key in keys() if key == section]
        if homes:
            return ConfigError(
                f"key {section!r} in {path} stands outside of a section",
                f"move it below a line [{homes[0]}]",
            )
        return ConfigError(
            f"unknown key {_name(section)} in {path}", _instead(section, [k for _, k in keys()])
        )
    return ConfigError(
        f"unknown section [{_name(section)[1:-1]}] in {path}", _instead(section, list(_SECTIONS))
    )


def _unknown_key(section: str, key: str, path: str) -> ConfigError:
    homes = [home for home, name in keys() if name == key]
    remedy = f"move it to [{homes[0]}]" if homes else _instead(key, list(_TYPES[section]))
    return ConfigError(f"unknown key {_name(key)} in section [{section}] of {path}", remedy)


def _instead(given: str, valid: list[str]) -> str:
    nearest = difflib.get_close_matches(given, valid, n=1, cutoff=0.5)
    if nearest:
        return f"did you mean {nearest[0]!r}? Correct it or remove it"
    return f"remove it (valid here: {', '.join(valid)})"


def _check_value(section: str, key: str, value: object, path: str) -> None:
    try:
        msgspec.convert(value, _TYPES[section][key], strict=True)
    except msgspec.ValidationError:
        raise _wrong_value(section, key, value, path) from None
    addresses = _addresses(value) if section == "network" or key == "listen" else []
    if not all(1 <= port_of(address) <= 65_535 for address in addresses):
        raise _wrong_value(section, key, value, path)


def _addresses(value: object) -> list[str]:
    """The addresses in a value of section [network]."""
    if isinstance(value, str):
        return [value] if value else []
    return [str(each) for each in value] if isinstance(value, list) else []


def _wrong_value(section: str, key: str, value: object, path: str) -> ConfigError:
    try:
        shown = _cut(json.dumps(value, default=str))
    except (ValueError, RecursionError):  # a hexadecimal number, or tables, without end
        shown = "(too long to be shown)"
    return ConfigError(
        f"{key} = {shown} in section [{section}] of {path} is not valid",
        f"write {_expected(section, key)}",
    )


def _name(given: str) -> str:
    """A key or section that there is none of, in quotes, on one line."""
    return repr(_cut(given))


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def _check_together(config: Config, path: str) -> None:
    taken: dict[str, str] = {}
    for section, key, endpoint in listening(config):
        address = endpoint.removeprefix("tcp://")
        name = f"{key} in section [{section}]"
        if address in taken:
            raise ConfigError(
                f"{taken[address]} and {name} of {path} are both {address}",
                "give them different ports",
            )
        taken[address] = name
    if config.block.pace_ms > config.block.empty_pace_s * 1_000:
        raise ConfigError(
            f"pace_ms = {config.block.pace_ms} in section [block] of {path} is longer than "
            f"empty_pace_s = {config.block.empty_pace_s}",
            "make pace_ms smaller or empty_pace_s greater",
        )
    peers = config.network.peers
    if len(set(peers)) != len(peers):
        raise ConfigError(
            f"peers in section [network] of {path} names a node twice",
            "remove the repetition",
        )
    fuse = config.pipeline.fuse
    if len(set(fuse)) != len(fuse) or len(fuse) == 1:
        raise ConfigError(
            f"fuse in section [pipeline] of {path} does not name two different stages",
            'write for example ["net", "verify"], or [] for a process each',
        )
    if "verify" in fuse and config.verify.workers > 1:
        raise ConfigError(
            f"fuse in section [pipeline] of {path} puts verify into one process, but "
            f"workers = {config.verify.workers} in section [verify]",
            "set workers to 0 or 1, or take verify out of fuse",
        )


def _expected(section: str, key: str) -> str:
    """What a key takes, as a phrase whose parts can be pasted as TOML: "an integer from 0 to
    64".
    """
    hint = _TYPES[section][key]
    bare = get_args(hint)[0]
    if bare is int:
        return f"an integer from {_meta(section, key, 'ge'):_} to {_meta(section, key, 'le'):_}"
    if get_origin(bare) is Literal:
        return "one of " + ", ".join(f'"{choice}"' for choice in get_args(bare))
    if key == "peers":
        return 'a list of "ADDRESS:PORT", each with a port from 1 to 65535'
    if bare is bool:
        return "true or false"
    if key == "rpcauth":
        return 'a list of "NAME:SALT$DIGEST", each with 64 hexadecimal digits behind the $'
    if key == "peer_listen" or (section, key) == ("rpc", "listen"):
        return '"ADDRESS:PORT" with a port from 1 to 65535, or ""'
    if get_origin(bare) is tuple:
        choices = get_args(get_args(bare)[0])
        return "a list of any of " + ", ".join(f'"{choice}"' for choice in choices)
    if section == "network":
        return '"tcp://ADDRESS:PORT" with a port from 1 to 65535'
    return '"auto", "off" or a map such as "net=0,verify=1-3,consensus=0"'


def _meta(section: str, key: str, attribute: str) -> Any:
    for part in get_args(_TYPES[section][key])[1:]:
        if isinstance(part, Meta) and getattr(part, attribute) is not None:
            return getattr(part, attribute)
    raise AssertionError(f"{section}.{key} is declared without {attribute}")


def _toml(value: object) -> str:
    """A default as TOML; JSON's form of our types (text, integers, lists of text) is also
    TOML's.
    """
    return json.dumps(value)


_SECTIONS: Final[dict[str, type[msgspec.Struct]]] = get_type_hints(Config)
_TYPES: Final[dict[str, dict[str, Any]]] = {
    section: get_type_hints(struct, include_extras=True) for section, struct in _SECTIONS.items()
}
for _section, _key in keys():
    assert _meta(_section, _key, "description").endswith(".")
