"""Settings of a hub that cannot be."""

from __future__ import annotations

from typing import Any

import pytest
from meeting import GENESIS, Meeting, node_id

from node.errors import ListenError
from node.network.address import AddressError
from node.network.settings import HubSettings


@pytest.mark.parametrize(
    "changes",
    [
        {"genesis_id": b""},
        {"node_id": bytes(17)},
        {"agent": "a" * 65},
        {"agent": "\n"},
        {"max_inbound": -1},
        {"max_outbound": -1},
        {"max_inbound": 1_000},
        {"max_per_ip": 0},
        {"ping_after_ns": 30 * 10**9},
        {"redial_first_ns": 0},
        {"redial_first_ns": 31 * 10**9},
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"genesis_id": GENESIS, "node_id": node_id(1)}
    HubSettings(**fields)
    with pytest.raises(ValueError):  # noqa: PT011
        HubSettings(**(fields | changes))


def test_an_address_that_cannot_be_had_is_told_with_a_remedy(meeting: Meeting) -> None:
    node = meeting.node(1)
    for listen in (node.address, "127.0.0.1", "nonsense:1:2", "203.0.113.1:1"):
        with pytest.raises(ListenError, match="cannot listen for peers on"):
            meeting.node(2, listen=listen)
    with pytest.raises(AddressError):
        meeting.node(2, static=("nonsense",))


def test_a_hub_need_not_listen(meeting: Meeting) -> None:
    node = meeting.node(1)
    silent = meeting.node(2, listen=None, static=(node.address,))
    meeting.until(lambda: node.here and silent.here)
    assert silent.hub.address is None
