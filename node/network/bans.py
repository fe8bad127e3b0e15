"""Who misbehaved how badly, and who is banned until when: pure, in wall-clock milliseconds.

The switchboard reports offences and asks at the door; what is banned is kept in a file across
restarts (`node.network.persisted`), scores are not. Bans are for sites (`address.site_of`): an
IPv4 address or an IPv6 /64.
"""

from __future__ import annotations

from typing import Any, Final

from node.network.address import is_numeric, site_of

BAN_POINTS: Final = 100
FORGIVE_MS: Final = 60_000  # for each point
BAN_MS: Final = 24 * 3_600_000
BAN_MAX_MS: Final = 366 * BAN_MS  # an operator's ban; a longer one in the file is cut
MAX_SCORES: Final = 4_096
MAX_BANS: Final = 4_096
REASON_MAX_CHARACTERS: Final = 200


class BanTable:
    """Scores and bans by site; both bounded, the oldest go first."""

    def __init__(self) -> None:
        self._scores: dict[str, tuple[int, int]] = {}  # site -> points, when (ms)
        self._bans: dict[str, tuple[int, str]] = {}  # site -> until (ms), reason
        self.changed = False  # since it was last saved

    def blame(self, host: str, points: int, now_ms: int) -> bool:
        """Add points to a site's score; whether it has reached a ban (the score is then zero)."""
        site = site_of(host)
        total = self.points(host, now_ms) + max(points, 0)
        self._scores.pop(site, None)
        if total >= BAN_POINTS:
            return True
        if total:
            if len(self._scores) >= MAX_SCORES:
                del self._scores[next(iter(self._scores))]
            self._scores[site] = (total, now_ms)
        return False

    def points(self, host: str, now_ms: int) -> int:
        """Return the score of a site, less what was forgiven since."""
        points, since_ms = self._scores.get(site_of(host), (0, now_ms))
        return max(0, points - max(0, now_ms - since_ms) // FORGIVE_MS)

    def ban(self, host: str, reason: str, now_ms: int, for_ms: int = BAN_MS) -> None:
        """Ban a site for a while, or longer than it was."""
        site = site_of(host)
        self._bans.pop(site, None)
        if len(self._bans) >= MAX_BANS:
            del self._bans[next(iter(self._bans))]
        until_ms = now_ms + min(max(for_ms, 0), BAN_MAX_MS)
        self._bans[site] = (until_ms, reason[:REASON_MAX_CHARACTERS])
        self._scores.pop(site, None)
        self.changed = True

    def unban(self, host: str) -> bool:
        """Lift a ban, given by an address of the site or the site itself; whether there was one."""
        there = self._bans.pop(site_of(host), None) or self._bans.pop(host, None)
        self.changed = self.changed or there is not None
        return there is not None

    def banned(self, host: str, now_ms: int) -> bool:
        """Whether a site is banned now."""
        return self.reason(host, now_ms) is not None

    def reason(self, host: str, now_ms: int) -> str | None:
        """Why a site is banned now; None if it is not."""
        until_ms, reason = self._bans.get(site_of(host), (now_ms, ""))
        return reason if now_ms < until_ms else None

    def bans(self, now_ms: int) -> dict[str, tuple[int, str]]:
        """Return the bans that hold: site -> until (ms since 1970), reason."""
        return {site: ban for site, ban in self._bans.items() if now_ms < ban[0]}

    def to_json(self, now_ms: int) -> Any:
        """What is worth keeping."""
        return [
            {"site": site, "until_ms": until_ms, "reason": reason}
            for site, (until_ms, reason) in self.bans(now_ms).items()
        ]

    def load(self, entries: Any, now_ms: int) -> int:
        """Take in what `to_json` gave, or whatever the file holds; how many bans that made."""
        taken = 0
        for entry in entries[:MAX_BANS] if isinstance(entries, list) else ():
            match entry:
                case {"site": str(site), "until_ms": int(until_ms), "reason": str(reason)}:
                    if until_ms > now_ms and is_numeric(site.partition("/")[0]):
                        self._bans[site] = (
                            min(until_ms, now_ms + BAN_MAX_MS),
                            reason[:REASON_MAX_CHARACTERS],
                        )
                        taken += 1
                case _:
                    pass
        return taken
