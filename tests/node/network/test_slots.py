"""Who loses a slot to whom."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from node.network.address import group_of
from node.network.slots import loses_slot

HOSTS = st.sampled_from(["1.1.0.1", "1.1.0.2", "2.2.0.1", "2.2.9.9", "3.3.0.1", "2001:db8::1"])


def test_the_youngest_of_the_crowd_goes() -> None:
    crowd = [("1.1.0.1", 5), ("1.1.0.2", 9), ("1.1.0.3", 7), ("2.2.0.1", 10)]
    assert loses_slot("3.3.0.1", crowd) == 9
    assert loses_slot("2.2.0.2", crowd) == 9
    assert loses_slot("2.2.0.2", crowd[1:]) is None  # the crowds would merely change about
    assert loses_slot("1.1.0.9", crowd) is None
    assert loses_slot("3.3.0.1", [("1.1.0.1", 1), ("2.2.0.1", 2)]) is None
    assert loses_slot("3.3.0.1", []) is None


@given(HOSTS, st.lists(HOSTS, max_size=12))
def test_it_ends_and_is_fairer_every_time(newcomer: str, hosts: list[str]) -> None:
    taken = list(zip(hosts, range(len(hosts)), strict=True))
    loser = loses_slot(newcomer, taken)
    if loser is None:
        return
    before = Counter(map(group_of, hosts))
    lost = group_of(hosts[loser])
    assert before[lost] == max(before.values())
    assert before[lost] - 1 >= before[group_of(newcomer)] + 1  # so it is not undone by the next
    assert all(group_of(host) != lost for host in hosts[loser + 1 :])
