"""The view of several nodes as one JSON document, for programs.

The document has the fields of `tools.monitor.view.NodeView` for each node; rates are per second,
times in the unit of their names, null is what cannot be said now.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from tools.monitor.view import NodeView


def document(views: Sequence[NodeView]) -> bytes:
    """One line, without the newline."""
    return orjson.dumps({"unix_s": max(view.unix_s for view in views), "nodes": list(views)})
