"""The network's rule of what is a valid signature, as a handful of probes for a library to fail.

Acceptance of a signature is consensus: two nodes that disagree on one strange signature are a
fork. The rule is that of libsodium 1.0.18 to 1.0.22 (PyNaCl 1.5 and 1.6): the equation without the
cofactor, S < L, a canonical key, neither key nor R of small order, R compared by bytes.
libsodium's development branch accepts more (with the cofactor), and so do other libraries. A
backend is therefore asked before it is trusted; one that answers otherwise never judges a
transaction. The probes were computed from RFC 8032's formulas; each ``id`` is signed behind the
spend prefix.
"""

from __future__ import annotations

from typing import NamedTuple

from node.params import SIGN_PREFIX_SPEND
from node.verification.signatures import Backend, BackendUnavailable, SignatureTable


class Probe(NamedTuple):
    """One signature, in hexadecimal, and whether the rule takes it."""

    name: str
    id: str
    key: str
    r: str
    s: str
    valid: bool


PROBES = (
    Probe(
        "plain",
        "1a9ff190fbbb02bdce98bb8169f19786bbb4dfeb2bb91073dc128056fe077595",
        "e8a919a6366f9ac52dee8763950fc019b84c6fc9824234fd9be89bbf05102379",
        "bc14796f036aaf45c73c5f1ba968466b803c81e95c9bd18e7be598d24ad21259",
        "3a0984cd51eeb4feafdc84877d10066753c785b31fc30ac0d1a979071722ad0f",
        valid=True,
    ),
    Probe(
        "altered",
        "0644631717cdf19f61fb40fd5658fabff725c90b5484a966e22a872394d6c9cd",
        "e8a919a6366f9ac52dee8763950fc019b84c6fc9824234fd9be89bbf05102379",
        "b949b8d12c67dc3d76dfa2016c55138c41ee6a4c8551183c12e4d329c025573d",
        "004e38cb122d6bb069b3a78e602b3062af5078da1ec372a7e71f581ccc6f4105",
        valid=False,
    ),
    Probe(
        "S + L",
        "92f3526dd3327f3e101d72a5157b53afc10e2c5116053a6dce6ec4e3c1a2df34",
        "e8a919a6366f9ac52dee8763950fc019b84c6fc9824234fd9be89bbf05102379",
        "d47fe630d3411738601617bb132bdb7c69b60364bdc0203a39c5811ed23db5eb",
        "3e214623110a8a1cf0389c5c86d55656d6491de44f9160e55acc00cdd2ca1318",
        valid=False,
    ),
    Probe(
        "mixed-order key, torsion cancels",
        "a6f297d2d02d92a71c1f145daba2a45ecc56877017cdcae5df78867c8ec262ed",
        "f78ff1c01c05fba1a5b16b9ce6acbff29bc171ac29acdf2baebf98e06a287cbd",
        "88663b6646db8251a45573c3b5153529e4fe74a4a510e4e6d6e658271f2dbc11",
        "ac79e23b733989f6bdcdf59bf4671d4a43c5d41b4cbf8f896cef17d54f0b310e",
        valid=True,
    ),
    Probe(
        "mixed-order key, torsion remains",
        "0d5eb1501b61570ef461398cb42dd9adfb3c00b7cd1ff3cb175f949090e05702",
        "f78ff1c01c05fba1a5b16b9ce6acbff29bc171ac29acdf2baebf98e06a287cbd",
        "975902fbbb3d735f4dbbc1c763fc05f199d5bb1f0ef018474e83ad314e8d836b",
        "b3bb5642eddfa3923cf9427fb37fc2b2bb3bdc173140b732d5843f47d14f5e02",
        valid=False,
    ),
    Probe(
        "small-order key",
        "763311bfd06fa2a9f86b194b82e322fbb314a822592104ec65d4878fd49f8e03",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "50b365bae1829bf5fbdf704b3be812b8289a9d7c62a5616a1d88f93027db1a1f",
        "7f02b08cb7779bf755ebc09501c50a711f348c71b4649279cab5b507f4d3aa09",
        valid=False,
    ),
    Probe(
        "small-order R",
        "b446b846246d497332a47a7fe9e31c943321a817b78addeb84ca317c5c3f6221",
        "f78ff1c01c05fba1a5b16b9ce6acbff29bc171ac29acdf2baebf98e06a287cbd",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "7c39b79e303ebe7fdbb704d7b0e6fe44e1947a92d0b5cc7920c308c6639ed709",
        valid=False,
    ),
    Probe(
        "non-canonical key",
        "7d512bedbdae95fbb0e66d2e6638b1108d00c7e7d48432bf5c49ae2fd19ef127",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "c8b2c2ced50c69c3f9e04915241597c82a23e12ddf840a631d6d5cbec6a6b3f6",
        "bc05a1ba56d107cf3bf10f53bba33d04f549454bb033719344208efa60e2fc0b",
        valid=False,
    ),
    Probe(
        "non-canonical R",
        "be3b0f658b720208ebb90e5a8d7138398f4cda3d957e2cc085d25914a63ab44e",
        "e8a919a6366f9ac52dee8763950fc019b84c6fc9824234fd9be89bbf05102379",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "19b92077074b759c056e383e87eeb27f37c9f058adea3051e9ac85a59612410c",
        valid=False,
    ),
)

_COPIES = 2  # each probe in two places, so that a wide backend meets it in different lanes


def check_rule(backend: Backend) -> None:
    """Let ``backend`` judge every probe.

    Raises ``BackendUnavailable`` naming the probes that it judges differently.
    """
    probes = PROBES * _COPIES
    table = SignatureTable(len(probes), len(probes))
    for row, probe in enumerate(probes):
        message = SIGN_PREFIX_SPEND + bytes.fromhex(probe.id)
        table.put(row, bytes.fromhex(probe.key), bytes.fromhex(probe.r + probe.s), message)
    answers = backend.verify(table, len(probes)).tolist()
    wrong = sorted({p.name for p, answer in zip(probes, answers, strict=True) if answer != p.valid})
    if wrong:
        raise BackendUnavailable(
            f"the library behind backend {backend.name} judges signatures by another rule than "
            f"this network ({', '.join(wrong)})",
            "install the versions that constraints.txt pins (pip install -c constraints.txt ...)",
        )
