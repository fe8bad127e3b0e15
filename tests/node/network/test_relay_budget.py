"""How much of strangers is looked at: what they get back, regain, and share."""

from __future__ import annotations

from node.network import relay_budget
from node.network.relay_budget import (
    ALL_ITEMS,
    ALL_ITEMS_PER_S,
    HOST_ITEMS,
    HOST_ITEMS_PER_S,
    MAX_HOSTS,
    RelayBudget,
)

S = 1_000_000_000


def spent(budget: RelayBudget, host: str, now_ns: int, step: int = 100) -> int:
    """How much a host can spend now."""
    total = 0
    while budget.is_open(host, now_ns):
        budget.spend(host, step)
        total += step
    return total


def test_a_host_has_an_allowance_and_regains_it_slowly() -> None:
    budget = RelayBudget(0)
    assert spent(budget, "a", 0) == HOST_ITEMS
    assert spent(budget, "a", 0) == 0
    assert spent(budget, "a", S) == HOST_ITEMS_PER_S
    assert spent(budget, "a", 10_000 * S) == HOST_ITEMS  # never more than at first


def test_what_was_good_is_given_back() -> None:
    budget = RelayBudget(0)
    for _ in range(100):
        assert budget.is_open("a", 0)
        budget.spend("a", HOST_ITEMS // 2)
        budget.refund("a", HOST_ITEMS // 2)
    budget.refund("a", 1_000_000)
    assert spent(budget, "a", 0) == HOST_ITEMS


def test_all_strangers_share_one_too() -> None:
    budget = RelayBudget(0)
    assert sum(spent(budget, f"{number}", 0) for number in range(100)) == ALL_ITEMS
    assert sum(spent(budget, f"{number}", S) for number in range(100)) == ALL_ITEMS_PER_S


def test_the_table_is_bounded() -> None:
    budget = RelayBudget(0)
    for number in range(MAX_HOSTS + 10):
        budget.is_open(f"{number}", 0)
    assert len(budget._hosts) == relay_budget.MAX_HOSTS
    budget.refund("0", 5)  # forgotten: nobody's
    assert len(budget._hosts) == relay_budget.MAX_HOSTS
