"""Validators that lie by a script: what an adversary with a key, a plan and a good ear can do.

A liar runs no protocol. It listens, keeps genuine votes to make certificates of, and acts when it
first hears of a round: on its tactics depends what it says to whom. Twins, the other kind of liar,
are two real nodes with one key (`sim_node` with a signer that signs everything), kept apart by the
network. A liar signs with its own key only; what it forges are certificates and others' messages.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from random import Random
from typing import Any

from sim_blocks import body_id, make_body
from sim_network import Network
from sim_node import Parcel, Post
from sim_world import GENESIS_ID, Keys, World, told

from node.consensus.certificate import make_certificate
from node.consensus.messages import Certificate, Certified, Proposal, Vote, VoteType

MAX_HEARD = 400  # votes, and as many values
RECORDED = 48  # messages for replay


class Tactic(StrEnum):
    """Something that a liar does."""

    SPLIT_PROPOSALS = "split proposals"  # different blocks for different peers
    DOUBLE_PROPOSALS = "double proposals"  # different blocks for the same peers
    INVALID_BLOCKS = "invalid blocks"
    WITHHELD_BODIES = "withheld bodies"  # handed to some, or to nobody
    OLD_VALUES = "old values"  # proposes again what the height's earlier rounds had, polka or not
    FORGED_POLKAS = "forged polkas"
    SPLIT_VOTES = "split votes"  # different votes for different peers
    DOUBLE_VOTES = "double votes"  # different votes for the same peers
    ONE_FRIEND = "one friend"  # the vote that makes a quorum goes to one peer only
    AMNESIA = "amnesia"  # votes at once for whatever is proposed, whatever it voted for before
    PLAUSIBLE = "plausible"  # votes as an honest one would, now and then
    FORGED_DECISIONS = "forged decisions"
    OLD_DECISIONS = "old decisions"
    FUTURE_ROUNDS = "future rounds"
    REPLAY = "replay"


class Liar:
    """One lying validator with a set of tactics; with none it is silent."""

    def __init__(
        self,
        world: World,
        network: Network,
        keys: Keys,
        post: Post,
        validator: int,
        tactics: list[Tactic],
        friends: frozenset[int],
    ) -> None:
        self._world = world
        self._network = network
        self._keys = keys
        self._post = post
        self._validator = validator
        self._tactics = frozenset(tactics)
        self._friends = friends  # validators that lie too: what they say is no reason to act
        self.index = network.join(self)
        self.name = f"liar-{self.index}"
        self.up = True  # silent for good once it is not
        self._heights: dict[int, set[int]] = {}  # height -> rounds in which it acted
        self._values: dict[int, list[bytes]] = {}  # height -> what was proposed or voted for
        self._votes: dict[tuple[int, int, VoteType, bytes], dict[int, Vote]] = {}
        self._bodies: dict[bytes, tuple[bytes, frozenset[int]]] = {}  # value -> body, who gets it
        self._parents: dict[int, bytes] = {0: GENESIS_ID}  # height -> what was decided
        self._decisions: deque[Certified] = deque(maxlen=8)
        self._assented: set[tuple[int, int, bytes]] = set()
        self._recorded: deque[Parcel] = deque(maxlen=RECORDED)

    # -- listening -------------------------------------------------------------------------------

    def receive(self, source: int, kind: str, content: Any) -> None:
        """Take what arrived from a node."""
        if not self.up or not self._tactics:
            return
        if kind == "want":
            body, friends = self._bodies.get(content, (b"", frozenset()))
            if source in friends:
                self._network.send(self.index, source, "body", body)
            elif content in self._bodies:
                self._world.seen["body withheld"] += 1
        elif kind == "message":
            message, good = content
            if good:
                self._hear(message)
                if Tactic.REPLAY in self._tactics:
                    self._recorded.append(content)
        elif kind == "decisions":
            for (message, good), _ in content:
                if good:
                    self._hear(message)

    def _hear(self, message: Proposal | Vote | Certified) -> None:
        if isinstance(message, Certified):
            certificate = message.certificate
            if certificate.type is VoteType.PRECOMMIT:
                self._parents[certificate.height] = certificate.value
                self._decisions.append(message)
            return
        height = message.height
        if height not in self._heights and len(self._heights) > 8:
            del self._heights[min(self._heights)]
        if message.value is not None:
            values = self._values.setdefault(height, [])
            if message.value not in values and len(values) < 6:
                values.append(message.value)
                if len(self._values) > 8:
                    del self._values[min(self._values)]
            if isinstance(message, Vote):
                self._count(message, message.value)
        if isinstance(message, Proposal) and Tactic.AMNESIA in self._tactics:
            self._vote_at_once(message)
        if message.validator in self._friends:
            return
        rounds = self._heights.setdefault(height, set())
        if message.round not in rounds and len(rounds) < 64:
            rounds.add(message.round)
            self._act(height, message.round)

    def _vote_at_once(self, proposal: Proposal) -> None:
        key = (proposal.height, proposal.round, proposal.value)
        if key in self._assented:
            return
        if len(self._assented) > MAX_HEARD:
            self._assented.clear()
        self._assented.add(key)
        world = self._world
        for type_, most_ms in ((VoteType.PREVOTE, 60), (VoteType.PRECOMMIT, 150)):
            peers = self._peers()
            if Tactic.SPLIT_VOTES in self._tactics and type_ is VoteType.PREVOTE:
                others = [peer for peer in peers if self._network.in_the_dark(peer, *key[:2])]
                peers = [peer for peer in peers if peer not in others]
                nil = self._vote(type_, proposal.height, proposal.round, None)
                world.after(world.ms(1, most_ms), self._send, nil, others)
            world.after(world.ms(1, most_ms), self._send, self._vote(type_, *key), peers)

    def _count(self, vote: Vote, value: bytes) -> None:
        """Keep a vote; precommits of a quorum tell what was decided."""
        if len(self._votes) > MAX_HEARD:
            del self._votes[next(iter(self._votes))]
        votes = self._votes.setdefault((vote.height, vote.round, vote.type, value), {})
        votes[vote.validator] = vote
        if vote.type is VoteType.PRECOMMIT and vote.height not in self._parents:
            certificate = self._certificate(vote.height, vote.round, vote.type, value)
            if certificate is not None:
                self._parents[vote.height] = value
                self._decisions.append(Certified(certificate))

    def _certificate(
        self, height: int, round_: int, type_: VoteType, value: bytes
    ) -> Certificate | None:
        """A genuine certificate of what was heard, and an own vote if that helps."""
        votes = self._votes.get((height, round_, type_, value))
        if votes is None:
            return None
        validators = self._keys.validators
        votes = {**votes, self._validator: self._vote(type_, height, round_, value)}
        if not validators.quorum(sum(validators.power(each) for each in votes)):
            return None
        return make_certificate(type_, height, round_, value, votes.values())

    # -- acting ----------------------------------------------------------------------------------

    def _act(self, height: int, round_: int) -> None:
        """A round was heard of for the first time."""
        world = self._world
        rng = world.rng
        tactics = self._tactics
        for number in (round_, round_ + 1):  # early, for the next round, it can be the first
            if self._keys.validators.proposer(height, number) == self._validator:
                world.after(world.ms(0, 300), self._propose, height, number)
        if tactics & _VOTES and Tactic.AMNESIA not in tactics:
            for type_, low, high in ((VoteType.PREVOTE, 5, 900), (VoteType.PRECOMMIT, 20, 1800)):
                if rng.random() < 0.85:
                    world.after(world.ms(low, high), self._lie_in_votes, type_, height, round_)
        if Tactic.FORGED_POLKAS in tactics and rng.random() < 0.3:
            world.after(world.ms(0, 1000), self._forge_polka, height, round_)
        if Tactic.FORGED_DECISIONS in tactics and rng.random() < 0.4:
            world.after(world.ms(0, 1500), self._forge_decision, height, round_)
        if Tactic.OLD_DECISIONS in tactics and self._decisions and rng.random() < 0.4:
            self._send(rng.choice(list(self._decisions)), self._some_peers())
        if Tactic.FUTURE_ROUNDS in tactics and rng.random() < 0.6:
            self._spam(height, round_)
        if Tactic.REPLAY in tactics and self._recorded:
            for _ in range(rng.randint(1, 4)):
                self._replay(rng.choice(list(self._recorded)))

    def _propose(self, height: int, round_: int) -> None:
        if not self.up:
            return
        rng = self._world.rng
        tactics = self._tactics
        peers = self._peers()
        valid_round = -1
        polka: Certificate | None = None
        values: list[bytes] = []
        if Tactic.OLD_VALUES in tactics and round_ and rng.random() < 0.7:
            valid_round, value, polka = self._old_value(height, round_)
            values.append(value)
        if not values:
            values.append(self._new_value(height))
        if tactics & {Tactic.SPLIT_PROPOSALS, Tactic.DOUBLE_PROPOSALS}:
            values.append(self._new_value(height))
        if len(values) == 2 and Tactic.SPLIT_PROPOSALS in tactics:
            rng.shuffle(peers)
            cut = rng.randint(1, len(peers) - 1)
            groups = [peers[:cut], peers[cut:]]
            if Tactic.DOUBLE_PROPOSALS in tactics:
                groups[1] = peers
        else:
            groups = [peers] * len(values)
        for value, group in zip(values, groups, strict=True):
            again = value == values[0]
            proposal = Proposal(
                height,
                round_,
                value,
                valid_round if again else -1,
                self._validator,
                polka if again else None,
            )
            self._send_signed(proposal, group)
            if Tactic.AMNESIA in tactics:
                self._vote_at_once(proposal)

    def _old_value(self, height: int, round_: int) -> tuple[int, bytes, Certificate | None]:
        """What to propose again: a value that had a polka, in whichever round; or as if."""
        rng = self._world.rng
        genuine = []
        for its_height, its_round, type_, value in self._votes:
            if its_height == height and its_round < round_ and type_ is VoteType.PREVOTE:
                polka = self._certificate(height, its_round, type_, value)
                if polka is not None:
                    genuine.append((its_round, value, polka))
        if genuine and rng.random() < 0.7:
            self._world.seen["stale polka"] += 1
            return rng.choice(genuine)
        old = self._values.get(height)
        new = not old or rng.random() < 0.3
        value = self._new_value(height) if new else rng.choice(old)
        return round_ - 1 if rng.random() < 0.7 else rng.randrange(round_), value, None

    def _new_value(self, height: int) -> bytes:
        rng = self._world.rng
        valid = not (Tactic.INVALID_BLOCKS in self._tactics and rng.random() < 0.5)
        parent = self._parents.get(height - 1, GENESIS_ID)
        body = make_body(height, parent, self.index, self._world.serial(), valid)
        if not valid and rng.random() < 0.3:
            body = body[:-1]
        friends = self._peers()
        if Tactic.WITHHELD_BODIES in self._tactics:
            friends = friends[: rng.choice((0, 1, len(friends) // 2, len(friends)))]
        if len(self._bodies) > 64:
            del self._bodies[next(iter(self._bodies))]
        value = body_id(body)
        self._bodies[value] = (body, frozenset(friends))
        values = self._values.setdefault(height, [])
        if len(values) < 6:
            values.append(value)
        return value

    def _lie_in_votes(self, type_: VoteType, height: int, round_: int) -> None:
        if not self.up:
            return
        rng = self._world.rng
        tactics = self._tactics
        known = self._values.get(height)
        value = known[-1] if known and rng.random() < 0.7 else rng.choice(known) if known else None
        peers = self._peers()
        rng.shuffle(peers)
        choice = rng.choice(sorted(tactics & _VOTES))
        if choice is Tactic.PLAUSIBLE:
            self._send_signed(self._vote(type_, height, round_, value), peers)
            return
        if choice is Tactic.ONE_FRIEND:
            self._send_signed(self._vote(type_, height, round_, value), peers[:1])
            if rng.random() < 0.5:
                self._send_signed(self._vote(type_, height, round_, None), peers[1:])
            return
        other = None if not known or rng.random() < 0.5 else rng.choice(known)
        if other is None and rng.random() < 0.1:
            other = rng.randbytes(32)  # a block that nobody has
        cut = rng.randint(0, len(peers))
        groups = (peers[:cut], peers[cut:])
        if choice is Tactic.DOUBLE_VOTES:
            groups = (peers, peers)
        self._send_signed(self._vote(type_, height, round_, value), groups[0])
        self._send_signed(self._vote(type_, height, round_, other), groups[1])

    def _forge_polka(self, height: int, round_: int) -> None:
        """Say that there is a polka where there is none."""
        rng = self._world.rng
        values = self._values.get(height)
        if not self.up or not values:
            return
        value = rng.choice(values)
        forged = self._forged(VoteType.PREVOTE, height, round_, value)
        if rng.random() < 0.5:
            self._send(Certified(forged), self._some_peers())
        else:
            proposal = Proposal(height, round_ + 1, value, round_, self._validator, forged)
            self._send_signed(proposal, self._some_peers())

    def _forge_decision(self, height: int, round_: int) -> None:
        values = self._values.get(height)
        if not self.up or not values:
            return
        value = self._world.rng.choice(values)
        forged = Certified(self._forged(VoteType.PRECOMMIT, height, round_, value))
        self._send(forged, self._some_peers())

    def _forged(self, type_: VoteType, height: int, round_: int, value: bytes) -> Certificate:
        """A certificate that lacks something: votes, signatures, or any truth."""
        rng = self._world.rng
        own = self._vote(type_, height, round_, value)
        n = self._keys.validators.n
        way = rng.randrange(5)
        if way == 0:  # everybody's, invented
            votes = [(each, rng.randbytes(64)) for each in range(n)]
        elif way == 1:  # one's own vote again and again
            votes = [(self._validator, own.signature)] * n
        elif way == 2:  # one's own signature for everybody
            votes = [(each, own.signature) for each in range(n)]
        elif way == 3:  # prevotes said to be precommits, or the other way round
            other = VoteType.PREVOTE if type_ is VoteType.PRECOMMIT else VoteType.PRECOMMIT
            genuine = self._votes.get((height, round_, other, value), {})
            votes = sorted((each, vote.signature) for each, vote in genuine.items())
        else:  # genuine, but too few
            genuine = self._votes.get((height, round_, type_, value), {})
            votes = sorted((each, vote.signature) for each, vote in genuine.items())[:2]
        return Certificate(type_, height, round_, value, tuple(votes))

    def _spam(self, height: int, round_: int) -> None:
        rng = self._world.rng
        for _ in range(rng.randint(1, 6)):
            ahead = rng.choice((1, 2, 3, 4, 7, 100, 10**6))
            later = height + rng.choice((0, 0, 0, 1, 1, 2, 5000))
            type_ = rng.choice((VoteType.PREVOTE, VoteType.PRECOMMIT))
            value = rng.choice((None, rng.randbytes(32), *self._values.get(height, ())))
            vote = self._vote(type_, later, round_ + ahead, value)
            self._send_signed(vote, self._some_peers())
            if rng.random() < 0.2:
                proposal = Proposal(later, round_ + ahead, rng.randbytes(32), -1, self._validator)
                self._send_signed(proposal, self._some_peers())

    def _replay(self, recorded: Parcel) -> None:
        peers = self._some_peers()
        delay = self._world.ms(0, 5000)
        self._world.after(delay, self._send_again, recorded, peers)

    def _send_again(self, recorded: Parcel, peers: list[int]) -> None:
        if self.up:
            self._world.seen["replayed"] += 1
            for peer in peers:
                self._network.send(self.index, peer, "message", recorded)

    # -- sending ---------------------------------------------------------------------------------

    def _vote(self, type_: VoteType, height: int, round_: int, value: bytes | None) -> Vote:
        vote = Vote(type_, height, round_, value, self._validator)
        signature = self._keys.sign(self._validator, vote)
        return Vote(type_, height, round_, value, self._validator, signature)

    def _send_signed(self, message: Proposal | Vote, peers: list[int]) -> None:
        if isinstance(message, Proposal):
            m = message
            signature = self._keys.sign(self._validator, m)
            message = Proposal(
                m.height, m.round, m.value, m.valid_round, m.validator, m.polka, signature
            )
        self._send(message, peers)

    def _send(self, message: Proposal | Vote | Certified, peers: list[int]) -> None:
        if not self.up:
            return
        self._world.seen["lie"] += 1
        if self._world.trace is not None:
            to = ",".join(str(peer) for peer in sorted(peers))
            self._world.say(self.name, f"says {told(message)} to {to}")
        sent = self._post.parcel(message)
        for peer in peers:
            self._network.send(self.index, peer, "message", sent)

    def _peers(self) -> list[int]:
        return [index for index in range(self._network.n_nodes) if index != self.index]

    def _some_peers(self) -> list[int]:
        peers = self._peers()
        rng = self._world.rng
        return peers if rng.random() < 0.5 else rng.sample(peers, rng.randint(1, len(peers)))


_VOTES = frozenset({Tactic.SPLIT_VOTES, Tactic.DOUBLE_VOTES, Tactic.ONE_FRIEND, Tactic.PLAUSIBLE})


def draw_tactics(rng: Random) -> list[Tactic]:
    """Some tactics, now and then all or none."""
    luck = rng.random()
    everything = list(Tactic)
    if luck < 0.07:
        return []
    if luck < 0.15:
        return everything
    return rng.sample(everything, rng.randint(1, 7))


def draw_plot(rng: Random) -> list[Tactic]:
    """What helps most to bring about what locks are there to prevent."""
    likely = ((Tactic.SPLIT_VOTES, 0.8), (Tactic.OLD_VALUES, 0.6))
    chosen = [tactic for tactic, chance in likely if rng.random() < chance]
    return [Tactic.AMNESIA, *chosen, *rng.sample(list(Tactic), rng.randint(0, 2))]
