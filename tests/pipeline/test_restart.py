"""When a dead process is started again, decided from times alone."""

from pipeline.restart import (
    FIRST_PAUSE_S,
    HEALTHY_LIFE_S,
    LONGEST_PAUSE_S,
    MAX_SHORT_LIVES,
    MAX_UNREADY_DEATHS,
    SHORT_LIFE_S,
    GiveUp,
    Restart,
    RestartPolicy,
)


def pauses(policy, deaths, life_s):
    """The pauses after so many deaths, each after a ready life of so long (None: never ready)."""
    now_s = 0.0
    found = []
    for _ in range(deaths):
        born_s = now_s
        now_s += 1.0 if life_s is None else life_s
        verdict = policy.died(now_s, None if life_s is None else born_s)
        assert isinstance(verdict, Restart), verdict
        found.append(verdict.pause_s)
        now_s += verdict.pause_s
    return found


def test_the_first_restart_is_immediate_and_pauses_double_up_to_a_bound():
    found = pauses(RestartPolicy(expendable=False), 12, SHORT_LIFE_S)
    assert found[:4] == [0.0, FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert found == sorted(found)
    assert found[-1] == LONGEST_PAUSE_S


def test_a_healthy_life_forgives_earlier_deaths():
    policy = RestartPolicy(expendable=False)
    pauses(policy, 6, SHORT_LIFE_S)
    assert policy.died(HEALTHY_LIFE_S, 0.0) == Restart(0.0)
    assert policy.died(1.0, None) == Restart(FIRST_PAUSE_S)


def test_dying_before_being_ready_is_hopeless_soon():
    policy = RestartPolicy(expendable=False)
    pauses(policy, MAX_UNREADY_DEATHS - 1, None)
    verdict = policy.died(100.0, None)
    assert isinstance(verdict, GiveUp)
    assert verdict.reason == f"died {MAX_UNREADY_DEATHS} times in a row before it was ready"


def test_being_ready_once_breaks_the_row_of_unready_deaths():
    policy = RestartPolicy(expendable=False)
    for _ in range(3):
        pauses(policy, MAX_UNREADY_DEATHS - 1, None)
        assert isinstance(policy.died(100.0, 100.0 - SHORT_LIFE_S), Restart)


def test_a_row_of_short_lives_is_hopeless_and_a_longer_one_breaks_it():
    policy = RestartPolicy(expendable=False)
    pauses(policy, MAX_SHORT_LIVES - 1, 0.5)
    pauses(policy, 1, SHORT_LIFE_S)
    pauses(policy, MAX_SHORT_LIVES - 1, 0.5)
    assert isinstance(policy.died(0.5, 0.0), GiveUp)


def test_an_expendable_process_is_never_given_up():
    assert pauses(RestartPolicy(expendable=True), 1000, None)[-1] == LONGEST_PAUSE_S
    assert pauses(RestartPolicy(expendable=True), 1000, 0.5)[-1] == LONGEST_PAUSE_S
