"""``timed``: the command that operators run.

Whatever goes wrong for a reason that an operator can put right ends here as one line on standard
error, ``timed: cause; remedy``, and exit status 2. Spawned children import this module again
before they run: that is why it imports nothing but the interpreter's own at its top.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run ``timed`` with the arguments of this process, and exit."""
    from node.commands import entry
    from pipeline.streams import let_go_of_lost_streams

    status = entry.run(sys.argv[1:])
    let_go_of_lost_streams()
    sys.exit(status)


if __name__ == "__main__":
    main()
