"""The view model follows topology and declarations, whatever the stages are called."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from monitor_world import SETS, World, remembered

from pipeline.topology import StageSpec
from tools.monitor.document import document
from tools.monitor.figures import agreement, rejections
from tools.monitor.rates import Shares
from tools.monitor.view import Flow, NodeView, describe, printable


def busy_second(world: World) -> NodeView:
    """The view after a second in which everybody worked."""
    first = world.look()
    for stage, index in world.keys:
        world.spend(stage, 1.0, 0.25, index)
    for stage, taken, given in (("gate", 100, 90), ("vault", 80, 70), ("clerk", 3, 2)):
        world.add(stage, "items_in", taken)
        world.add(stage, "items_out", given)
    for index in (0, 1):
        world.add("mill", "items_in", 50, index)
        world.add("mill", "items_out", 45, index)
    world.add("gate", "verdict_admitted", 60)
    world.add("gate", "verdict_conflict", 7)
    world.observe("mill", "wait_us", 2_500, index=1)
    world.now_s += 1
    return describe(remembered(first, world.look()))


def test_every_stage_and_instance_has_a_row() -> None:
    view = busy_second(World())
    assert [row.label for row in view.rows] == ["gate", "mill-0", "mill-1", "vault", "clerk"]
    assert [row.role for row in view.rows] == ["intake", "worker", "worker", "sink", "side"]
    for row in view.rows:
        assert row.shares is not None
        assert row.shares.whole() == (25, 0, 1, 74)
    mill = view.rows[2]
    assert (mill.in_per_s, mill.out_per_s, mill.pid, mill.memory_mb) == (50, 45, 4_003, 30)
    assert mill.wait is not None
    assert (mill.wait.p50_ms, mill.service) == (3, None)
    assert (view.rows[0].last_core, view.rows[0].pinned) == (1, ())
    assert view.rows[3].pinned == (2,)


def test_flows_follow_the_roles() -> None:
    view = busy_second(World())
    rates = {flow.link: flow.items_per_s for flow in view.flows}
    assert rates == {
        "grist": 100,  # what the workers took in
        "done": None,  # nobody counts that
        "flour": 90,  # what they gave
        "back": 80,  # what the sink took
        "ask": 3,
        "tell": 2,
    }
    assert view.flows[0] == Flow("grist", "gate", "mill", "block", "trays", 100)


def test_a_new_stage_shows_up_by_itself() -> None:
    world = World()
    look = world.look()
    told: dict[str, Any] = dict(look.status)
    extra = StageSpec("scribe", "x:y", world.topology.stages[3].role)
    told["topology"]["stages"].append(json.loads(msgspec.json.encode(extra)))
    told["processes"].append(told["processes"][-1] | {"name": "scribe", "members": [["scribe", 0]]})
    view = describe(remembered(replace(look, status=told)))
    assert view.rows[-1].label == "scribe"
    assert view.rows[-1].shares is None  # it has said nothing yet
    assert [box.name for box in view.boxes][-1] == "scribe"


def test_a_process_of_several_stages_has_a_row_for_each() -> None:
    world = World()
    status = world.status()
    status["processes"][0] |= {"name": "both", "members": [["gate", 0], ["vault", 0]]}
    del status["processes"][3]
    rows = describe(remembered(replace(world.look(), status=status))).rows
    assert [row.label for row in rows] == ["both/gate", "both/vault", "mill-0", "mill-1", "clerk"]


def test_restarts_are_counted_and_their_cause_is_told() -> None:
    world = World()
    world.die("mill", 1)
    rows = describe(remembered(world.look())).rows
    assert [row.restarts for row in rows] == [0, 0, 1, 0, 0]
    assert rows[2].last_death == "SIGKILL"


def test_who_is_dead_has_no_shares() -> None:
    world = World()
    first = world.look()
    world.spend("gate", 1.0)
    world.now_s += 1
    status = world.status()
    status["processes"][0] |= {"pid": None, "state": "waiting", "uptime_s": None}
    view = describe(remembered(first, replace(world.look(), status=status)))
    assert (view.rows[0].shares, view.rows[0].pid, view.boxes[0].ready) == (None, None, 0)


def test_every_declared_metric_is_shown_once() -> None:
    view = busy_second(World())
    shown = [(each.stage, each.index, each.name) for each in (*view.readings, *view.latencies)]
    declared = [
        (stage, index, metric.name)
        for stage, index in World().keys
        for metric in SETS[stage].metrics
    ]
    assert sorted(shown) == sorted(declared)
    by_name = {(each.stage, each.name): each for each in view.readings}
    assert by_name["gate", "items_in"].per_s == 100
    assert by_name["gate", "trays_free"].per_s is None  # a gauge has no rate


def test_trays_and_rejections_come_from_the_declarations() -> None:
    world = World()
    world.values["gate", 0]["trays_free"] = 6
    view = busy_second(world)
    assert view.trays == (("free", 6), ("out", 0))
    causes = {(each.stage, each.cause): (each.total, each.per_s) for each in view.rejections}
    assert causes == {("gate", "conflict"): (7, 7), ("gate", "clients dropped"): (0, 0)}


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("verdict_admitted", None),
        ("verdict_known", None),
        ("verdict_orphaned", None),
        ("verdict_bad_signature", "bad signature"),
        ("frames_unwanted", "frames unwanted"),
        ("refused", "refused"),
        ("rejected", "all causes together"),
        ("items_in", None),
        ("lost_and_found", "lost and found"),
    ],
)
def test_what_counts_as_a_rejection(name: str, cause: str | None) -> None:
    assert rejections([name]) == ([] if cause is None else [(name, cause)])


def agreed(**gauges: int) -> Any:
    world = World()
    world.values["vault", 0] |= gauges
    return agreement(world.look())


def test_where_agreement_is() -> None:
    alone = {"height": 7, "validators": 1, "validators_voting": 1, "peers_height": 0}
    at = agreed(**alone, round=2, step=3)
    assert (at.height, at.round, at.step, at.voting, at.validators) == (7, 2, "precommit", 1, 1)
    assert (at.sync, at.well) == ("in step", True)
    assert agreed(height=7, behind=1, peers_height=1_207).sync == "1,200 behind"
    assert agreed(height=7, validators=4, validators_voting=2).sync == "waits for votes"
    assert agreed(height=7, validators=4, validators_voting=3).sync == "in step"
    assert agreed(height=7, step=99).step == "99"  # of a later version


def test_a_stage_that_is_not_ready_says_nothing_of_agreement() -> None:
    world = World()
    world.values["vault", 0] |= {"height": 0, "validators": 1, "validators_voting": 1}
    look = world.look()
    processes = [
        each | ({"state": "starting"} if each["name"] == "vault" else {})
        for each in look.status["processes"]
    ]
    at = agreement(replace(look, status={**look.status, "processes": processes}))
    assert (at.height, at.voting, at.validators) == (None, None, None)
    assert (at.sync, at.well) == ("starting", False)


def test_nobody_there_says_why_and_keeps_the_trends() -> None:
    world = World()
    memory = remembered(world.look(), world.absent("no node answers\x1b[2J"))
    view = describe(memory)
    assert view.absent == "no node answers?[2J"
    assert (view.rows, view.flows, view.agreement) == ((), (), None)


def test_a_status_of_another_version_is_said_to_be_one() -> None:
    world = World()
    status = world.status() | {"topology": {"stages": 1}}
    view = describe(remembered(replace(world.look(), status=status)))
    assert view.absent is not None
    assert "not understood" in view.absent


def test_what_could_move_the_cursor_is_not_printed() -> None:
    world = World()
    world.events = [
        {"unix_s": 1.0, "level": "info", "event": "x\n", "facts": {"a\x1b": "\u202eb", "n": 3}}
    ]
    (event,) = describe(remembered(world.look())).events
    assert (event.event, event.facts) == ("x?", (("a?", "?b"), ("n", "3")))
    assert printable("\x9b\u200b") == "??"


def test_the_document_is_json_and_complete() -> None:
    view = busy_second(World())
    absent = describe(remembered(World().absent("stopped")))
    told = json.loads(document([view, absent]))
    assert set(told) == {"unix_s", "nodes"}
    first, second = told["nodes"]
    assert set(first) == set(NodeView.__dataclass_fields__)
    for row in first["rows"]:
        assert sum(row["shares"].values()) == pytest.approx(100)
        assert set(row["shares"]) == set(Shares.__dataclass_fields__)
    assert (second["absent"], second["rows"]) == ("stopped", [])
