"""Addresses: an owner key of 32 bytes as text that people can check, copy and read out.

Bech32m (BIP-350) over the bare key, with a prefix that tells the kind of network. Text comes from
people and configuration, keys go to transactions; nothing is kept here, and nothing is hashed.
"""

from __future__ import annotations

from bech32 import CHARSET, bech32_hrp_expand, bech32_polymod, convertbits

from node.params import KEY_BYTES

BECH32M_CONSTANT = 0x2BC830A3  # BIP-350
CHECKSUM_CHARACTERS = 6
KEY_CHARACTERS = (KEY_BYTES * 8 + 4) // 5

PREFIX_MAIN = "time"
PREFIX_TEST = "ttime"
PREFIX_DEVELOPMENT = "dtime"


class AddressFormatError(ValueError):
    """Text that is not an address of this network; the message tells why."""


def prefix_of(chain: str) -> str:
    """Return the address prefix of a chain by its genesis name ("main", "test", or any other)."""
    return {"main": PREFIX_MAIN, "test": PREFIX_TEST}.get(chain, PREFIX_DEVELOPMENT)


def encode_address(key: bytes, prefix: str) -> str:
    """Return the address of a 32-byte owner key.

    Raises ValueError when the key has another length (ours, never the peer's).
    """
    if len(key) != KEY_BYTES:
        raise ValueError(f"an owner key has {KEY_BYTES} bytes, not {len(key)}")
    data = convertbits(key, 8, 5)
    assert data is not None
    state = bech32_polymod([*bech32_hrp_expand(prefix), *data, *[0] * CHECKSUM_CHARACTERS])
    state ^= BECH32M_CONSTANT
    checksum = [state >> 5 * (CHECKSUM_CHARACTERS - 1 - i) & 31 for i in range(CHECKSUM_CHARACTERS)]
    return prefix + "1" + "".join(CHARSET[word] for word in data + checksum)


def decode_address(text: str, prefix: str) -> bytes:
    """Return the 32-byte owner key of an address of the network with this prefix.

    Raises AddressFormatError: mixed case, another network, wrong length, a letter that Bech32 does
    not have, a wrong checksum, or padding bits that are not zero. One key has one address, except
    that all of it may be in upper case (QR codes).
    """
    if text != text.lower() and text != text.upper():
        raise AddressFormatError("an address is all lower or all upper case; copy it again")
    found, separator, words = text.lower().rpartition("1")
    if not separator:
        raise AddressFormatError(f"not an address: it should begin with {prefix}1")
    if found != prefix:
        raise AddressFormatError(
            f"the address begins with {found[:16]!r}, this network's begin with {prefix!r}:"
            " it belongs to another network or was copied incompletely"
        )
    expected = KEY_CHARACTERS + CHECKSUM_CHARACTERS
    if len(words) != expected:
        raise AddressFormatError(
            f"an address has {expected} characters after {prefix}1, not {len(words)}"
        )
    data = [CHARSET.find(character) for character in words]
    if -1 in data:
        raise AddressFormatError(f"{words[data.index(-1)]!r} does not occur in addresses")
    if bech32_polymod([*bech32_hrp_expand(prefix), *data]) != BECH32M_CONSTANT:
        raise AddressFormatError("the checksum is wrong: a character is mistyped or missing")
    key = convertbits(data[:KEY_CHARACTERS], 5, 8, False)
    if key is None:
        raise AddressFormatError("the last bits of the address are not zero")
    return bytes(key)
