"""What is asked over the control socket, whatever it is."""

import json

import msgspec
from damage import damaged_json
from hypothesis import given, settings

from pipeline.answers import Answers
from pipeline.loglevels import SUPERVISOR, LogLevels

REQUEST = b'{"ask": "logging", "set": {"supervisor": "debug", "all": "info"}}'


class Supervised:
    """A pipeline without processes."""

    state = "running"
    epoch = 1

    def __init__(self):
        self.levels = LogLevels([], "info")

    def recent_events(self):
        return []

    def log_levels(self):
        return self.levels.as_dict()

    def set_log_levels(self, wanted):
        self.levels.change(wanted)


@settings(max_examples=200)
@given(damaged_json(REQUEST) | damaged_json(b'{"ask": "status"}'))
def test_any_request_is_answered(line):
    try:
        request = msgspec.json.decode(line, type=dict[str, object])
    except (ValueError, RecursionError):  # then the server answers by itself
        return
    supervised = Supervised()
    answer = json.loads(Answers(supervised, None, [], None, 0.0).answer(request, 1.0, 0).line)
    assert set(answer) & {"error", "levels", "state", "segments"}
    assert supervised.levels[SUPERVISOR] in ("debug", "info", "warning", "error")
