"""Whose log has which level."""

import pytest

from pipeline.loglevels import MAX_CHANGES, LogLevels, UnknownLevel
from pipeline.placement import ProcessSpec


def table():
    names = {"net": ["net"], "verify-0": ["verify"], "verify-1": ["verify"], "both": ["sink", "x"]}
    specs = [
        ProcessSpec(name, tuple((stage, index) for index, stage in enumerate(stages)))
        for name, stages in names.items()
    ]
    return LogLevels(specs, "info")


def test_levels_are_set_by_stage_process_or_for_all():
    levels = table()
    assert set(levels.as_dict()) == {"supervisor", "net", "verify-0", "verify-1", "both"}
    assert levels.change({"verify": "debug", "verify-1": "error"}) == ["verify-0", "verify-1"]
    assert (levels["verify-0"], levels["verify-1"], levels["net"]) == ("debug", "error", "info")
    assert levels.change({"x": "warning"}) == ["both"]
    assert levels.chosen("both") == "warning"
    assert levels.chosen("net") is None
    levels.change({"all": "error", "supervisor": "debug"})
    assert set(levels.as_dict().values()) == {"error", "debug"}
    assert levels["supervisor"] == "debug"
    assert levels.chosen("net") == "error"


def test_events_at_the_level_and_above_are_written():
    levels = table()
    levels.change({"net": "warning"})
    wanted = [
        level for level in ("debug", "info", "warning", "error") if levels.writes("net", level)
    ]
    assert wanted == ["warning", "error"]


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"net": "debug", "nett": "debug"}, "no stage or process 'nett'; give one of all, superv"),
        ({"net": "debug", "both": "loud"}, "no level 'loud'; give debug, info, warning, error"),
        ({str(n): "info" for n in range(MAX_CHANGES + 1)}, "give 200 at most"),
    ],
)
def test_what_is_not_understood_changes_nothing(wanted, says):
    levels = table()
    with pytest.raises(UnknownLevel, match=says):
        levels.change(wanted)
    assert set(levels.as_dict().values()) == {"info"}
