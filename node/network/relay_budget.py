"""How much of what strangers relay, ask and announce is looked at.

A transaction costs a signature and a look into the store whether it is good or not. Peers that are
known (static, or proven validators) are trusted to relay what they have admitted; everybody else
spends an allowance, gets back what turned out to be good, and regains a little with time. Addresses
share an allowance, since connections cost nothing, and all strangers share another one. Questions
and announcements have plain limits. Pure; times are nanoseconds. Owns a table of hosts, bounded.
"""

from __future__ import annotations

from typing import Final

HOST_ITEMS: Final = 2_000  # transactions of one address that may turn out useless at first
HOST_ITEMS_PER_S: Final = 200
ALL_ITEMS: Final = 8_000  # of all strangers
ALL_ITEMS_PER_S: Final = 1_000
MAX_HOSTS: Final = 4_096

_NS_PER_S: Final = 1_000_000_000


class Allowance:
    """Something that is spent, given back and regained; never more than `most`."""

    __slots__ = ("_at_ns", "_left", "_most", "_per_s")

    def __init__(self, most: int, per_s: int, now_ns: int) -> None:
        self._most = most
        self._per_s = per_s
        self._left = float(most)
        self._at_ns = now_ns

    def regain(self, now_ns: int) -> float:
        """Let time pass; returns what there is."""
        earned = max(0, now_ns - self._at_ns) * self._per_s / _NS_PER_S
        self._left = min(self._most, self._left + earned)
        self._at_ns = max(self._at_ns, now_ns)
        return self._left

    def give(self, amount: int) -> None:
        """Spend (below zero) or give back; one may go into debt by one spending."""
        self._left = min(self._most, self._left + amount)


class RelayBudget:
    """The allowances of strangers, by host."""

    def __init__(self, now_ns: int) -> None:
        self._all = Allowance(ALL_ITEMS, ALL_ITEMS_PER_S, now_ns)
        self._hosts: dict[str, Allowance] = {}

    def is_open(self, host: str, now_ns: int) -> bool:
        """Whether what a stranger relays now is looked at."""
        own = self._hosts.get(host)
        if own is None:
            if len(self._hosts) >= MAX_HOSTS:
                del self._hosts[next(iter(self._hosts))]
            own = self._hosts[host] = Allowance(HOST_ITEMS, HOST_ITEMS_PER_S, now_ns)
        return own.regain(now_ns) > 0 and self._all.regain(now_ns) > 0

    def spend(self, host: str, items: int) -> None:
        """So many of its transactions are looked at."""
        self.refund(host, -items)

    def refund(self, host: str, items: int) -> None:
        """So many of them were good."""
        self._all.give(items)
        if host in self._hosts:
            self._hosts[host].give(items)
