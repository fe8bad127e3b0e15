"""``time-monitor``: a node, seen live in a terminal.

What a node shows (`watch`) becomes observations (`observed`), those become rates (`rates`,
`memory`), a view model (`view`), and lines of a frame (`panes`, `frame`): all of that is pure. The
terminal belongs to `terminal` alone.
"""
