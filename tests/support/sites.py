"""Nodes with something wrong inside: a sitecustomize of ours is imported in all their processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

SUPPORT = Path(__file__).parent


@contextmanager
def site(name: str, **variables: str) -> Iterator[None]:
    """Let nodes that are started within import the sitecustomize of this directory."""
    before = filter(None, [os.environ.get("PYTHONPATH")])
    path = os.pathsep.join([str(SUPPORT / name), *before])
    with patch.dict(os.environ, PYTHONPATH=path, **variables):
        yield
