"""The wiring of the node: which stages there are, what links them, and how large the trays are.

The one place to look for "who talks to whom"; ARCHITECTURE.md's diagram is drawn from this table.
Built from the configuration in the parent, validated there (``pipeline.topology_rules``), then
handed to every child. Pure: no files, no processes.

The circle net -> verify -> consensus -> net is made of blocking links and yet cannot deadlock: a
descriptor travels only with a tray, and no link can hold fewer descriptors than there are trays.
``sign`` answers each request of ``consensus`` once, and of those there are a handful at a time.
What peers say and are told besides is dropped where there is no room: they repeat it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from node.config import Config
from node.errors import ConfigError
from node.verification.verdict_slot import slot_bytes
from pipeline.errors import TopologyError
from pipeline.topology import LinkPolicy, LinkSpec, Role, StageSpec, Topology, TrayDims
from pipeline.topology_rules import validate

TRAY_BYTES: Final = 128 * 1024
"""Payload of a tray: two trays for the largest ingest message (256 KiB)."""

MAX_ITEMS: Final = 512
"""Transactions in a tray: where its fixed costs, in every stage that it passes, have vanished."""

FILL_BYTES: Final = MAX_ITEMS * 214
"""How far a tray is filled, in payments of one input and two outputs, 214 bytes each: 4 to 6 ms of
work with AVX-512, 22 to 34 ms with PyNaCl (7-12 us and 44-66 us a signature). No transaction has
more than a signature in 130 bytes, so whatever is in a tray is at most 1.65 times that work. Votes
do not wait for it: a verifier looks for them every millisecond. PyNaCl's trays once held 128: in
interleaved runs that was 0.62 of the raw rate, and this is 0.71.
"""

QUESTIONS: Final = 256
"""Questions and answers that may wait between rpc and consensus; rpc has fewer under way."""

ORDERS: Final = 64
"""Of the operator to net; each is a line that somebody has typed."""

WORDS: Final = 512
"""Frames to and from peers that may wait in a link; of those beyond, each is asked for again."""

RESERVED: Final = (2, 2)
"""Trays kept for votes and proposals, and for data that consensus asked for."""


def workers(config: Config, backend: Literal["avx512", "nacl"], cores: int) -> int:
    """How many verifier processes to run on ``cores`` cores.

    With PyNaCl a signature costs three times what the rest of a transaction does: every core
    verifies, and niceness keeps the other stages ahead. With AVX-512 it costs about what
    ``consensus`` spends: two take up whatever time two cores have left (measured against one:
    1.03 with one input, 1.25 with four), and more than four would only wait.
    """
    if "verify" in config.pipeline.fuse:
        return 1
    if config.verify.workers:
        return config.verify.workers
    if backend == "nacl":
        return min(max(1, cores if cores <= 4 else cores - 2), 64)
    return min(cores, max(2, min(cores - 2, 4)))


def wire(
    config: Config, backend: Literal["avx512", "nacl"], available_cores: Sequence[int]
) -> Topology:
    """The topology of a node with this configuration; ``backend`` is the resolved one.

    Raises ``ConfigError`` if the configuration asks for one that cannot work on these cores.
    """
    fuse = config.pipeline.fuse
    shared = "_".join(fuse)
    trays = config.pipeline.trays

    def process(stage: str) -> str | None:
        return shared if stage in fuse else None

    topology = Topology(
        stages=(
            StageSpec(
                name="net",
                build="node.stages.net:build",
                role=Role.INTAKE,
                process=process("net"),
            ),
            StageSpec(
                name="verify",
                build="node.stages.verify:build",
                role=Role.WORKER,
                count=workers(config, backend, len(available_cores)),
                nice=0 if "verify" in fuse else 10,
                process=process("verify"),
            ),
            StageSpec(
                name="consensus",
                build="node.stages.consensus:build",
                role=Role.SINK,
                stall_ms=30_000,  # a commit may wait that long for a busy disk
                process=process("consensus"),
            ),
            StageSpec(name="sign", build="node.stages.sign:build", role=Role.SIDE),
            *_rpc_stages(config),
        ),
        links=(
            LinkSpec("work", "net", "verify", LinkPolicy.BLOCK, trays, "trays to verify"),
            LinkSpec(
                "done", "verify", "net", LinkPolicy.BLOCK, trays, "trays verified, room for more"
            ),
            LinkSpec(
                "judged", "verify", "consensus", LinkPolicy.BLOCK, trays, "trays with verdicts"
            ),
            LinkSpec(
                "returns", "consensus", "net", LinkPolicy.BLOCK, trays, "trays with admissions"
            ),
            LinkSpec("resend", "net", "consensus", LinkPolicy.BLOCK, trays, "trays judged before"),
            LinkSpec("sign", "consensus", "sign", LinkPolicy.BLOCK, trays, "own messages"),
            LinkSpec("signed", "sign", "consensus", LinkPolicy.BLOCK, trays, "their signatures"),
            LinkSpec("say", "consensus", "net", LinkPolicy.DROP, WORDS, "to peers"),
            LinkSpec("heard", "net", "consensus", LinkPolicy.DROP, WORDS, "from peers"),
            *_rpc_links(config),
        ),
        trays=TrayDims(
            trays=trays,
            tray_bytes=TRAY_BYTES,
            fill_bytes=FILL_BYTES,
            max_items=MAX_ITEMS,
            verdict_bytes=slot_bytes(MAX_ITEMS, TRAY_BYTES),
            reserved=RESERVED,
        ),
        cores=config.pipeline.cores,
    )
    try:
        validate(topology, available_cores)
    except TopologyError as error:
        raise ConfigError(
            f"the pipeline cannot be built: {' '.join(str(error).split())}",
            "correct sections [pipeline] and [verify] of config.toml",
        ) from None
    return topology


def _rpc_stages(config: Config) -> tuple[StageSpec, ...]:
    """The stage that wallets speak to, unless it shall listen nowhere; the node lives without."""
    if not config.rpc.listen:
        return ()
    return (
        StageSpec(
            name="rpc",
            build="node.stages.rpc:build",
            role=Role.SIDE,
            nice=5,  # behind votes and admission, before the verifiers that take all there is
            stall_ms=30_000,  # a large block takes seconds to print
            expendable=True,
        ),
    )


def _rpc_links(config: Config) -> tuple[LinkSpec, ...]:
    if not config.rpc.listen:
        return ()
    return (
        LinkSpec("ask", "rpc", "consensus", LinkPolicy.DROP, QUESTIONS, "questions of wallets"),
        LinkSpec("told", "consensus", "rpc", LinkPolicy.DROP, QUESTIONS, "answers, new blocks"),
        LinkSpec("order", "rpc", "net", LinkPolicy.DROP, ORDERS, "whom to connect to, or not"),
    )
