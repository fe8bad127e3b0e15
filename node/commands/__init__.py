"""The commands of ``timed``: each module is one of them, ``surface`` is what all have in common."""
