"""All methods that the node answers, in the order in which ``help`` lists them."""

from __future__ import annotations

from node.rpc.method import Method
from node.rpc.methods import (
    agreement,
    chain,
    control,
    finality,
    mempool,
    network,
    outputs,
    transactions,
)

METHODS: tuple[Method, ...] = (
    *chain.METHODS,
    *outputs.METHODS,
    *mempool.METHODS,
    *transactions.METHODS,
    *finality.METHODS,
    *agreement.METHODS,
    *network.METHODS,
    *control.METHODS,
)
