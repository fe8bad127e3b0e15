"""The sabotages: one line each, every one takes away a guard that something must notice is gone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sabotage:
    """`old`, found exactly once in `file`, becomes `new`."""

    name: str
    file: str
    old: str
    new: str


CORE = "node/consensus/core.py"
VOTES = "node/consensus/votes.py"
VALIDATORS = "node/consensus/validators.py"
CERTIFICATE = "node/consensus/certificate.py"
SIGNED_BYTES = "node/consensus/signed_bytes.py"
OUTSTANDING = "node/consensus/outstanding.py"
AGREEMENT = "node/agreement.py"
WAL = "node/wal.py"
SIGNER = "node/signer.py"

SABOTAGES = (
    # quorums
    Sabotage(
        "quorum of two thirds, not more",
        VALIDATORS,
        "3 * power > 2 * self.total",
        "3 * power >= 2 * self.total",
    ),
    Sabotage(
        "quorum of a half", VALIDATORS, "3 * power > 2 * self.total", "2 * power > self.total"
    ),
    Sabotage("quorum of all", VALIDATORS, "3 * power > 2 * self.total", "power >= self.total"),
    Sabotage("skip set of anybody", VALIDATORS, "3 * power > self.total", "power > 0"),
    # the rules of the paper, line by line
    Sabotage(
        "10: never mind the pace",
        CORE,
        "self.step is Step.NEW_HEIGHT and self._paced and wanted",
        "self.step is Step.NEW_HEIGHT and wanted",
    ),
    Sabotage(
        "10: nobody wakes a sleeper",
        CORE,
        "wanted = self._wanted or self._tally.heard_anything",
        "wanted = self._wanted",
    ),
    Sabotage(
        "16: forgets the valid value",
        CORE,
        "        if self.valid_value is None:\n            self._builder",
        "        if True:\n            self._builder",
    ),
    Sabotage(
        "19: a re-proposal without its polka",
        CORE,
        "self.valid_value, self.valid_round, me, polka)",
        "self.valid_value, self.valid_round, me, None)",
    ),
    Sabotage(
        "21: no timeout to propose",
        CORE,
        "        self._set_timer(TimerKind.PROPOSE, round_, propose_ms)  # line 21\n",
        "",
    ),
    Sabotage(
        "23: the lock does not bind",
        CORE,
        "free or self.locked_value == proposal.value)",
        "True)",
    ),
    Sabotage(
        "24: invalid blocks get votes",
        CORE,
        "self._vote(VoteType.PREVOTE, value if self._verdicts[value] else None)",
        "self._vote(VoteType.PREVOTE, value)",
    ),
    Sabotage(
        "24: votes before it knows the block",
        CORE,
        "        elif value in self._verdicts:\n            self._vote(VoteType.PREVOTE, value if self._verdicts[value] else None)",
        "        else:\n            self._vote(VoteType.PREVOTE, value)",
    ),
    Sabotage(
        "28: no polka needed",
        CORE,
        "if valid_round != NO_ROUND and self._tally.has_polka(valid_round, value):",
        "if valid_round != NO_ROUND:",
    ),
    Sabotage(
        "29: any polka unlocks", CORE, "free = self.locked_round <= valid_round", "free = True"
    ),
    Sabotage(
        "29: no polka unlocks", CORE, "free = self.locked_round <= valid_round", "free = False"
    ),
    Sabotage(
        "34: no timeout of prevotes",
        CORE,
        "            self._set_timer(TimerKind.PREVOTE, self.round, self._vote_ms())\n",
        "            pass\n",
    ),
    Sabotage(
        "36: precommits before the body is durable",
        CORE,
        "return value in self._durable and self._verdicts.get(value, False)",
        "return self._verdicts.get(value, False)",
    ),
    Sabotage(
        "36: the validity does not matter",
        CORE,
        "return value in self._durable and self._verdicts.get(value, False)",
        "return value in self._durable",
    ),
    Sabotage(
        "36: no polka needed",
        CORE,
        "if value in now.prevotes.quorums and self._holds(value):",
        "if self._holds(value):",
    ),
    Sabotage(
        "38: does not lock",
        CORE,
        "                    self.locked_value, self.locked_round = value, self.round\n",
        "",
    ),
    Sabotage(
        "42: does not remember the valid value",
        CORE,
        "                self.valid_value, self.valid_round = value, self.round  # lines 42-43\n",
        "",
    ),
    Sabotage(
        "44: never precommits nil",
        CORE,
        "        if self.step is Step.PREVOTE and None in self._tally.now.prevotes.quorums:",
        "        if False:",
    ),
    Sabotage(
        "47: no timeout of precommits",
        CORE,
        "        self._set_timer(TimerKind.PRECOMMIT, self.round, self._vote_ms())\n",
        "",
    ),
    Sabotage(
        "49: decides without the body",
        CORE,
        "        if self._holds(value):\n            self.changes += 1\n            self.step = Step.COMMIT",
        "        if True:\n            self.changes += 1\n            self.step = Step.COMMIT",
    ),
    Sabotage(
        "49: goes on voting after the decision",
        CORE,
        "            self.step = Step.COMMIT\n            certificate",
        "            certificate",
    ),
    Sabotage(
        "50: does not forget the lock with the height",
        CORE,
        "        self.locked_value: bytes | None = None\n",
        "        self.locked_value: bytes | None = getattr(self, 'locked_value', None)\n",
    ),
    Sabotage(
        "55: never skips ahead",
        CORE,
        "        if self._tally.skip_round > self.round and self.step is not Step.COMMIT:",
        "        if False:",
    ),
    Sabotage(
        "57: the propose timeout of any round",
        CORE,
        "        if round_ == self.round and self.step is Step.PROPOSE:\n            self._vote(VoteType.PREVOTE, None)",
        "        if self.step is Step.PROPOSE:\n            self._vote(VoteType.PREVOTE, None)",
    ),
    Sabotage(
        "57: prevotes nil again and again",
        CORE,
        "        if round_ == self.round and self.step is Step.PROPOSE:\n            self._vote(VoteType.PREVOTE, None)",
        "        if round_ == self.round:\n            self._vote(VoteType.PREVOTE, None)",
    ),
    Sabotage(
        "61: precommits nil whatever it did",
        CORE,
        "        if round_ == self.round and self.step is Step.PREVOTE:\n            self._vote(VoteType.PRECOMMIT, None)",
        "        if round_ == self.round:\n            self._vote(VoteType.PRECOMMIT, None)",
    ),
    Sabotage(
        "65: stays in its round",
        CORE,
        "            self._start_round(round_ + 1)\n",
        "            pass\n",
    ),
    Sabotage(
        "65: a step back",
        CORE,
        "            self._start_round(round_ + 1)\n",
        "            self._start_round(0)\n",
    ),
    # what the paper leaves open
    Sabotage(
        "never says it again",
        CORE,
        "                self._effects.append(Resend(unique))",
        "                pass",
    ),
    Sabotage(
        "says it again once",
        CORE,
        "        self._set_timer(TimerKind.RESEND, 0, self._timeouts.resend_ms)\n\n    def _said",
        "\n    def _said",
    ),
    Sabotage(
        "does not help those behind",
        CORE,
        "            self._effects.append(SendDecisions(validator, height))",
        "            pass",
    ),
    Sabotage(
        "believes any proposer",
        CORE,
        "        return proposal.validator == self._validators.proposer(height, round_)",
        "        return True",
    ),
    Sabotage(
        "believes any certificate",
        CORE,
        "            check_certificate(certificate, self._validators)\n",
        "            pass\n",
    ),
    Sabotage(
        "a polka for something else",
        CORE,
        "        if proves != (VoteType.PREVOTE, proposal.valid_round, proposal.value):\n            return False\n",
        "",
    ),
    Sabotage(
        "does not report misbehaviour",
        CORE,
        "            self._effects.append(ReportMisbehaviour(self._tally.first(vote), vote))",
        "            pass",
    ),
    Sabotage(
        "commits what contradicts",
        CORE,
        "        if other is not None:\n            self._halt(",
        "        if False:\n            self._halt(",
    ),
    Sabotage(
        "counts a second vote",
        VOTES,
        "        counts = certified and (validator, value) not in self._certified",
        "        counts = (validator, value) not in self._certified",
    ),
    Sabotage(
        "a certificate's conflicting vote does not count",
        VOTES,
        "        counts = certified and (validator, value) not in self._certified",
        "        counts = False",
    ),
    Sabotage(
        "keeps every round of everybody",
        VOTES,
        "        if round_ > self.round + 1 and not certified and not self._make_room(round_, validator):\n            return None\n",
        "",
    ),
    Sabotage(
        "certificates without a quorum",
        CERTIFICATE,
        "    if not validators.quorum(power):",
        "    if False:",
    ),
    Sabotage(
        "precommits signed as prevotes",
        SIGNED_BYTES,
        "VoteType.PRECOMMIT: PREFIX_PRECOMMIT}",
        "VoteType.PRECOMMIT: PREFIX_PREVOTE}",
    ),
    # the driver
    Sabotage(
        "an own message leaves before it is synced",
        AGREEMENT,
        "            self._wal.sync()\n            self._host.broadcast(message)",
        "            self._host.broadcast(message)\n            self._wal.sync()",
    ),
    Sabotage(
        "a decision is announced before it is synced",
        AGREEMENT,
        "                self._wal.sync()\n                host.commit(effect)",
        "                host.commit(effect)",
    ),
    Sabotage(
        "does not log what was decided",
        AGREEMENT,
        "                self._wal.append(height, Certified(certificate))\n",
        "",
    ),
    Sabotage(
        "never syncs the log",
        AGREEMENT,
        "            self._wal.sync()\n            self._host.broadcast(message)",
        "            self._host.broadcast(message)",
    ),
    Sabotage(
        "does not log what it heard",
        AGREEMENT,
        "            self._wal.append(height, message)\n        for effect",
        "            pass\n        for effect",
    ),
    Sabotage(
        "does not log what it said",
        AGREEMENT,
        "            self._wal.append(message.height, message)\n",
        "",
    ),
    Sabotage(
        "does not ask again after a restart",
        AGREEMENT,
        "        self._run(outstanding.effects())",
        "        self._run(())",
    ),
    Sabotage(
        "forgets what comes early",
        AGREEMENT,
        "            self._early.setdefault((message.round, kind, message.validator), message)",
        "            pass",
    ),
    Sabotage(
        "believes others in its own name",
        AGREEMENT,
        "            if message.validator == self.core.me:\n                return\n",
        "",
    ),
    # the log
    Sabotage(
        "the log is not synced",
        WAL,
        "        file.sync()\n        self._durable",
        "        self._durable",
    ),
    Sabotage(
        "the directory is not synced",
        WAL,
        "        files.rename(NEW_FILE, FILE)\n        files.sync_directory()\n",
        "        files.rename(NEW_FILE, FILE)\n",
    ),
    Sabotage(
        "records of any height are replayed",
        WAL,
        "if record.height == height and record.content:",
        "if record.content:",
    ),
    Sabotage(
        "a torn tail is not cut",
        WAL,
        "                files.truncate(FILE, end)\n",
        "",
    ),
    Sabotage(
        "damage is cut in silence",
        WAL,
        "                self._check_tail(data, end)\n",
        "",
    ),
    Sabotage(
        "checksums are not checked",
        WAL,
        "    if _digest(_OFFSET.pack(offset), fields, content) != data[start - CHECKSUM_BYTES : start]:",
        "    if False:",
    ),
    # the signer
    Sabotage(
        "signs what lies back",
        SIGNER,
        "        elif position < state.position:",
        "        elif False:",
    ),
    Sabotage(
        "signs two things at one place",
        SIGNER,
        "            if content != state.signed:",
        "            if False:",
    ),
    Sabotage(
        "a new signature for another content",
        SIGNER,
        "        elif position == state.position:",
        "        elif position == state.position and content == state.signed:",
    ),
    Sabotage(
        "the state is not synced",
        SIGNER,
        "        file.sync()\n        file.write",
        "        file.write",
    ),
    Sabotage(
        "the only good slot is overwritten",
        SIGNER,
        "        spare = N_SLOTS - 1 - self._slot\n",
        "        spare = self._slot\n",
    ),
    Sabotage(
        "both slots are written before one is synced",
        SIGNER,
        "        file.sync()\n        file.write(self._slot * SLOT_BYTES, record)\n",
        "        file.write(self._slot * SLOT_BYTES, record)\n        file.sync()\n",
    ),
    Sabotage(
        "a state as it was found is relied on",
        SIGNER,
        "            self._file.sync()\n            files.sync_directory()\n",
        "",
    ),
    Sabotage(
        "the earlier of two states counts",
        SIGNER,
        "    return max((state for state",
        "    return min((state for state",
    ),
    Sabotage("a new file is not synced", SIGNER, "    files.sync(NEW_NAME)\n", ""),
    Sabotage(
        "the directory is not synced after the rename",
        SIGNER,
        "    files.rename(NEW_NAME, STATE_NAME)\n    files.sync_directory()\n",
        "    files.rename(NEW_NAME, STATE_NAME)\n",
    ),
    Sabotage(
        "the signature is released before the state is written",
        SIGNER,
        "        self._store(SignerState(*position, content, signature))\n",
        "        self.state = SignerState(*position, content, signature)\n",
    ),
    Sabotage(
        "speaks at once without a state",
        SIGNER,
        "HEIGHTS_SILENT: Final = 2",
        "HEIGHTS_SILENT: Final = 0",
    ),
)
