"""A process that signs for its life, and says in a pipe what it released: started to be killed."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

from nacl.signing import SigningKey
from signer_cuts import SALT, message_at, place_of

from node.consensus.signed_bytes import signed_bytes
from node.durable import Directory
from node.signer import Signer, SigningRefused

RECORD = struct.Struct("<QIB47s64s")  # height, round, step, signed bytes, signature
ME = 3


def key() -> SigningKey:
    return SigningKey(bytes(range(32)))


def main(directory: str, life: int) -> None:
    """Sign around the last signature and onwards; every life says something else."""
    signing_key = key()
    signer = Signer(
        Directory(Path(directory)),
        lambda content: signing_key.sign(content).signature,
        SALT,
        bytes(signing_key.verify_key),
        ME,
    )
    assert signer.state is not None
    height = max(1, signer.state.height - 1)
    while True:
        for step in (0, 1, 2):
            for number in (life, life + 1):
                message = message_at((height, 0, step), number)
                try:
                    signature = signer.sign(message)
                except SigningRefused:
                    continue
                record = RECORD.pack(*place_of(message), signed_bytes(message, SALT), signature)
                os.write(sys.stdout.fileno(), record)
        height += 1


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
