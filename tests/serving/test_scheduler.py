import numpy as np
import pytest

from anytime_keras.serving import Overloaded, Request, Scheduler, StageTimes, arrival_times, policies, simulate

ACCURACIES = [0.525, 0.658, 0.676, 0.786, 0.821, 0.835, 0.854, 0.857]  # resann5x16 on CIFAR-10, eight exits
STAGES = np.diff([5.16, 14.6, 24.0, 32.3, 41.7, 50.0, 59.4, 68.9], prepend=0.0) / 68.9 * 0.010


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def times(kind="linear"):
    """A machine on which a batch takes nearly as long as its requests one by one, or, with "batches", much less."""
    sizes = [1, 2, 4, 8, 16, 32]
    per_request = {"linear": lambda b: b, "batches": lambda b: 0.8 + 0.2 * b}[kind]
    return StageTimes(sizes, [[0.0004 + per_request(size) * stage for stage in STAGES] for size in sizes])


def fast():
    """A network that takes 2 ms, on a server whose own work per batch, request and stage counts."""
    sizes = [1, 2, 4, 8]
    overhead = [1e-4 + 5e-5 * size for size in sizes]
    return StageTimes(sizes, [0.2 * size * STAGES for size in sizes]).plus(
        overhead, [3e-5] * 4, [0.0019 * size for size in sizes]
    )


def small(policy="value", clock=None, **options):
    """Three exits after 10, 30 and 60 ms, one request at a time."""
    clock = clock or Clock()
    return Scheduler(StageTimes([1, 2], [[0.01, 0.02, 0.03]] * 2), [0.5, 0.7, 0.9], policy, clock, **options), clock


def best_static(arrivals, deadline, kind, noise):
    policies = [f"exit_{number}" for number in range(1, 9)]
    return max(simulate(times(kind), ACCURACIES, arrivals, deadline, name, noise).goodput for name in policies)


def compare(kind, arriving, load, factor, seconds):
    table = times(kind).table
    deadline, rows = factor * table[1, -1], np.arange(1, len(table))
    fits = (table[1:, -1] <= deadline) | (rows == 1)
    rate = load * (rows / table[1:, -1])[fits].max()
    arrivals = arrival_times(arriving, rate, seconds, seed=1)
    value = simulate(times(kind), ACCURACIES, arrivals, deadline, noise=0.1)
    return value, best_static(arrivals, deadline, kind, noise=0.1), arrivals, deadline


@pytest.mark.parametrize("kind, arriving, load", [("linear", "poisson", 0.95), ("batches", "gamma", 1.3)])
def test_value_beats_the_best_static_exit_in_hindsight(kind, arriving, load):
    value, best, _, _ = compare(kind, arriving, load, factor=2, seconds=2)
    assert value.goodput > best


@pytest.mark.long
@pytest.mark.parametrize("load", [0.4, 0.8, 0.95, 1.3, 2.0, 4.0])
@pytest.mark.parametrize("factor", [2, 10])
@pytest.mark.parametrize("arriving", ["poisson", "gamma", "step", "afternoon"])
@pytest.mark.parametrize("kind", ["linear", "batches"])
def test_value_is_within_half_a_point_of_the_best_static_exit_at_every_load(kind, arriving, factor, load):
    value, best, arrivals, deadline = compare(kind, arriving, load, factor, seconds=6)
    assert value.goodput > best - 0.005
    if load == 1.3:
        assert value.goodput > 1.5 * simulate(times(kind), ACCURACIES, arrivals, deadline, "last").goodput


@pytest.mark.parametrize("load", [0.4, 1.3])
def test_value_beats_the_best_static_exit_in_bursts_where_the_servers_own_work_counts(load):
    arrivals, deadline = arrival_times("gamma", load * 450, 2, seed=1), 2 * fast().straight[1]
    value = simulate(fast(), ACCURACIES, arrivals, deadline, noise=0.1).goodput
    static = [simulate(fast(), ACCURACIES, arrivals, deadline, f"exit_{n}", noise=0.1).goodput for n in range(1, 9)]
    assert value > max(static) - 0.005


def slow_and_receiving(policy, load):
    """Bursts on a machine that takes 20% longer than the scheduler's table says and receives requests meanwhile."""
    machine = StageTimes(fast().sizes, 1.2 * fast()._seconds, straight=[1.2 * fast().straight[n] for n in fast().sizes])
    arrivals, deadline = arrival_times("gamma", load * 450, 3, seed=1), 2 * fast().straight[1]
    known = {"machine": machine, "receiving": 6e-5, "noise": 0.2}
    return simulate(fast(), ACCURACIES, arrivals, deadline, policy, **known)


@pytest.mark.parametrize("load", [0.4, 1.3, 4.0])
def test_value_beats_the_best_static_exit_on_a_machine_that_is_slower_than_its_table(load):
    static = [slow_and_receiving(f"exit_{number}", load).goodput for number in range(1, 9)]
    assert slow_and_receiving("value", load).goodput > max(static) - 0.005


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_value_beats_the_best_static_exit_if_other_deadlines_are_long(share):
    arrivals, rng = arrival_times("poisson", 2.5 * 450, 3, seed=1), np.random.default_rng(0)
    deadlines = np.where(rng.random(len(arrivals)) < share, 60.0, 2 * fast().straight[1])
    static = [simulate(fast(), ACCURACIES, arrivals, deadlines, f"exit_{n}").goodput for n in range(1, 9)]
    assert simulate(fast(), ACCURACIES, arrivals, deadlines).goodput > max(static) - 0.005


def test_no_decision_makes_a_plan(monkeypatch):
    scheduler = Scheduler(fast(), ACCURACIES, clock=Clock())
    monkeypatch.setattr(policies, "Plan", lambda *_: pytest.fail("made"))
    for slack in np.geomspace(1e-3, 60, 50):
        scheduler.usual_slack = slack
        scheduler.waiting = [Request(0.0, deadline=slack) for _ in range(9)]
        batch, _ = scheduler.next_batch()
        scheduler.runs_straight(batch)
        scheduler.leaving(batch, 0)


@pytest.mark.parametrize("machine", [times("linear"), fast(), StageTimes([1], [STAGES])])
def test_plans_made_ahead_fit_every_usual_slack(machine):
    policy = policies.make("value", machine, np.array(ACCURACIES))
    for key in range(-60, 30):
        plan, own = policy._plan(2 ** (key / 4)), policies.Plan(machine, ACCURACIES, 2 ** (key / 4))
        assert (plan.sizes, plan.shares) == (own.sizes, own.shares)


def test_a_simulated_machine_must_have_the_shape_of_the_times():
    times = StageTimes([1], [[0.01]])
    for machine in (StageTimes([1, 2], [[0.01], [0.02]]), StageTimes([1], [[0.01, 0.02]])):
        with pytest.raises(ValueError, match="`machine` must have .* Received: machine with"):
            simulate(times, [0.9], [0.0], deadline=0.1, machine=machine)
    straight = StageTimes([1], [[0.01]]).plus([0.0], [0.0], straight=[0.01])
    with pytest.raises(ValueError, match="`straight` if `times` has it"):
        simulate(straight, [0.9], [0.0], deadline=0.1, machine=times)


def test_receiving_requests_takes_the_machines_time():
    arrivals = [0.0, 0.001, 0.002, 0.9]
    free = simulate(StageTimes([1], [[0.01]]), [0.9], arrivals, deadline=0.1)
    busy = simulate(StageTimes([1], [[0.01]]), [0.9], arrivals, deadline=0.1, receiving=0.001)
    assert free.seconds == pytest.approx(0.04) and busy.seconds == pytest.approx(0.042)


def test_times_include_the_servers_own_work():
    own = StageTimes([1, 2], [[0.1, 0.2], [0.2, 0.4]]).plus([0.01, 0.02], [0.001, 0.002], straight=[0.25, 0.5])
    np.testing.assert_allclose(own.table[1:], [[0, 0.11, 0.311], [0, 0.22, 0.622]])
    np.testing.assert_allclose(own.straight[1:], [0.26, 0.52])
    own.saw(rows=2, position=None, seconds=1.04)
    assert own.pace > 1 and own.usual == pytest.approx(1.05)


def straight(policy, deadline):
    clock = Clock()
    table = StageTimes([1, 2], [[0.01, 0.02, 0.03]] * 2).plus([0.0, 0.0], [0.0, 0.0], straight=[0.05, 0.05])
    scheduler = Scheduler(table, [0.5, 0.7, 0.9], policy, clock)
    scheduler.offer(Request(0.0, deadline))
    return scheduler, clock, scheduler.next_batch()[0]


def test_a_batch_runs_straight_to_the_last_exit_if_waiting_requests_can_afford_it():
    scheduler, clock, batch = straight("value", deadline=0.2)
    assert scheduler.runs_straight(batch)
    clock.now = 0.05
    assert scheduler.leaving(batch, 2) == batch
    scheduler, _, batch = straight("value", deadline=0.1)
    assert not scheduler.runs_straight(batch), "a request that came now would wait for half of its deadline"
    scheduler, _, batch = straight("value", deadline=0.2)
    for number in range(8):
        scheduler.offer(Request(0.0, deadline=0.11))
    assert not scheduler.runs_straight(batch), "the others would get their first exit only"
    assert straight("last", deadline=0.2)[0].runs_straight(batch)
    assert not straight("exit_2", deadline=0.2)[0].runs_straight(batch)
    assert not small()[0].runs_straight(batch), "the engine cannot"
    slower, _, batch = straight("last", deadline=0.2)
    slower.times.straight = [0.07] * 3
    assert not slower.runs_straight(batch), "the stages take 0.06 s"


def test_all_are_in_time_up_to_most_of_the_first_exits_capacity():
    first = 1 / times().table[1, 1]
    outcome = simulate(times(), ACCURACIES, arrival_times("poisson", 0.8 * first, 3), deadline=0.05)
    assert outcome.in_time / outcome.asked > 0.99 and outcome.asked > 2000


def test_without_load_everything_runs_to_the_last_exit():
    outcome = simulate(times(), ACCURACIES, np.arange(50) * 0.03, deadline=0.1)
    assert outcome.exits == [0] * 7 + [50]


def test_every_request_is_counted_once():
    arrivals = arrival_times("gamma", 300, 3)
    for policy in ("value", "slack", "last", "exit_2"):
        outcome = simulate(times(), ACCURACIES, arrivals, 0.05, policy, noise=0.3)
        assert outcome.in_time + outcome.late + outcome.refused == outcome.asked == len(arrivals)


def test_a_request_leaves_when_the_next_exit_would_be_late():
    scheduler, clock = small()
    scheduler.offer(Request(0.0, deadline=0.045))
    batch, expired = scheduler.next_batch()
    assert len(batch) == 1 and not expired
    clock.now = 0.010
    assert scheduler.leaving(batch, 0) == []
    clock.now = 0.030
    assert scheduler.leaving(batch, 1) == batch


def test_a_running_batch_ends_early_if_others_arrive_meanwhile():
    scheduler, clock = small()
    scheduler.offer(Request(0.0, deadline=0.08))
    batch, _ = scheduler.next_batch()
    clock.now = 0.010
    assert scheduler.leaving(batch, 0) == [], "alone, it continues"
    for number in range(4):
        scheduler.offer(Request(0.010, deadline=0.08 + 0.001 * number))
    assert scheduler.leaving(batch, 0) == batch, "four others can still reach their first exit"


def test_confident_requests_leave_by_their_thresholds():
    scheduler, clock = small(thresholds=[0.9, 0.9, 0.0])
    requests = [Request(0.0, 1.0), Request(0.0, 1.1)]
    for request in requests:
        scheduler.offer(request)
    batch, _ = scheduler.next_batch()
    assert batch == requests
    clock.now = 0.010
    assert scheduler.leaving(batch, 0, confidence=[0.95, 0.5]) == requests[:1]
    patient = Request(0.0, 1.0, min_exit=1)
    assert scheduler.leaving([patient], 0, confidence=[0.99]) == [], "not before its `min_exit`"


def test_requests_that_cannot_be_in_time_are_refused_with_an_estimate():
    scheduler, clock = small()
    with pytest.raises(Overloaded, match="Expected: at least 10.0 ms. Received: 5.0 ms") as refusal:
        scheduler.offer(Request(0.0, deadline=0.005))
    assert refusal.value.retry_after == pytest.approx(0.005)
    with pytest.raises(Overloaded):
        scheduler.offer(Request(0.0, deadline=0.05, min_exit=2))
    assert not scheduler.waiting
    for _ in range(20):
        try:
            scheduler.offer(Request(0.0, deadline=0.05))
        except Overloaded:
            break
    assert 5 <= len(scheduler.waiting) <= 10, "two at a time in 10 ms, until 50 ms"


def test_hopeless_deadlines_do_not_change_how_others_are_served():
    scheduler, _ = small()
    scheduler.offer(Request(0.0, deadline=0.1))
    before = scheduler.rate, scheduler.usual_slack
    for deadline in (0.0, -1.0, -1e9, 1e-9):
        with pytest.raises(Overloaded):
            scheduler.offer(Request(0.0, deadline))
    assert (scheduler.rate, scheduler.usual_slack) == before
    for _ in range(3):
        scheduler.offer(Request(0.0, deadline=60.0))
    assert scheduler.usual_slack < 0.5, "few long deadlines do not count for all"


def test_an_idle_server_accepts_requests_although_the_machine_was_slow():
    scheduler, clock = small()
    for _ in range(100):
        scheduler.times.saw(rows=1, position=0, seconds=1.0)
    clock.now = 1.0
    scheduler.offer(Request(1.0, deadline=1.02))
    batch, expired = scheduler.next_batch()
    assert len(batch) == 1 and not expired


def test_requests_are_refused_by_the_measured_seconds_and_expire_by_the_present_ones():
    scheduler, clock = small()
    for _ in range(200):
        scheduler.times.saw(rows=1, position=0, seconds=0.02)
    scheduler.offer(Request(0.0, deadline=0.018))
    scheduler.offer(Request(0.0, deadline=0.018))
    with pytest.raises(Overloaded, match="at least 20.0 ms. Received: 18.0 ms"):
        scheduler.offer(Request(0.0, deadline=0.018))
    assert len(scheduler.next_batch()[1]) == 2, "the machine takes 20 ms at present"


def test_a_full_queue_refuses():
    scheduler, _ = small(max_queue=3)
    for _ in range(3):
        scheduler.offer(Request(0.0, deadline=9.0))
    with pytest.raises(Overloaded, match="3 requests wait"):
        scheduler.offer(Request(0.0, deadline=9.0))


@pytest.mark.parametrize(
    "policy, urgent, accepted",
    [
        ("value", Request(0.0, deadline=8.0), True),
        ("value", Request(0.0, deadline=99.0, priority=4), True),
        ("value", Request(0.0, deadline=8.0, priority=6), False),
        ("last", Request(-1.0, deadline=8.0), False),  # first in, first out, wherever time was spent before
        ("last", Request(1.0, deadline=99.0, priority=4), True),
    ],
)
def test_a_full_queue_gives_up_its_last_request_for_a_more_urgent_one(policy, urgent, accepted):
    scheduler, _ = small(policy, max_queue=3)
    waiting = [Request(0.0, deadline=9.0 + number) for number in range(3)]
    for request in waiting:
        scheduler.offer(request)
    if accepted:
        assert scheduler.offer(urgent) == waiting[2:]
        assert scheduler.waiting == sorted([urgent, *waiting[:2]], key=scheduler.policy.order)
    else:
        with pytest.raises(Overloaded, match="3 requests wait"):
            scheduler.offer(urgent)
        assert scheduler.waiting == waiting


@pytest.mark.parametrize("policy", ["value", "slack", "last"])
def test_a_full_queue_gives_up_hopeless_requests_first(policy):
    scheduler, clock = small(policy, max_queue=3)
    hopeless, alive = [Request(0.0, 0.05), Request(0.0, 0.06)], Request(0.0, 9.0)
    for request in (hopeless[0], alive, hopeless[1]):
        scheduler.offer(request)
    clock.now = 0.2
    assert set(scheduler.offer(last := Request(0.2, 10.0))) == set(hopeless)
    assert scheduler.waiting == [alive, last]


def test_a_request_that_is_refused_takes_no_place():
    scheduler, clock = small(max_queue=1)
    scheduler.offer(waiting := Request(0.0, 9.0))
    scheduler._busy_until = 5.0
    with pytest.raises(Overloaded, match="deadline cannot be met"):
        scheduler.offer(Request(0.0, 1.0, priority=1))
    assert scheduler.waiting == [waiting]


def test_a_withdrawn_request_leaves_the_queue():
    scheduler, _ = small()
    scheduler.offer(first := Request(0.0, 9.0))
    scheduler.offer(second := Request(0.0, 9.0))
    assert scheduler.withdraw(first) and not scheduler.withdraw(first)
    assert scheduler.waiting == [second]


def test_time_before_a_request_was_offered_is_not_part_of_its_slack():
    scheduler, clock = small()
    clock.now = 1.0
    scheduler.offer(Request(0.0, 1.25))
    assert scheduler.usual_slack == 0.25


def test_waiting_requests_that_became_hopeless_are_returned():
    scheduler, clock = small()
    soon, later = Request(0.0, 0.02), Request(0.0, 0.5)
    scheduler.offer(later)
    scheduler.offer(soon)
    clock.now = 0.015
    assert scheduler.next_batch() == ([later], [soon])


class Counting(list):
    """A list that counts how often an item is read."""

    reads = 0

    def __getitem__(self, key):
        self.reads += 1
        return super().__getitem__(key)


def test_requests_of_every_priority_expire_and_few_are_read():
    scheduler, clock = small()
    lasting = [Request(0.0, deadline=60.0, priority=priority) for priority in (1, 5, 9) for _ in range(300)]
    hopeless = [Request(0.0, deadline=0.02, priority=priority) for priority in (1, 5, 9)]
    scheduler.waiting = waiting = Counting(sorted([*lasting, *hopeless], key=scheduler.policy.order))
    clock.now = 0.019
    _, expired = scheduler.next_batch()
    assert sorted(request.priority for request in expired) == [1, 5, 9] and waiting.reads < 100


def test_a_higher_priority_is_served_first():
    scheduler, _ = small()
    plain, low, urgent = Request(0.0, 0.5), Request(0.0, 0.4, priority=9), Request(0.0, 0.6, priority=1)
    for request in (low, plain, urgent):
        scheduler.offer(request)
    assert scheduler.waiting == [urgent, plain, low]


def test_a_request_reaches_its_min_exit_although_others_wait():
    scheduler, clock = small()
    scheduler.offer(Request(0.0, deadline=0.07, min_exit=1))
    batch, _ = scheduler.next_batch()
    clock.now = 0.010
    for _ in range(3):
        scheduler.offer(Request(0.010, deadline=0.1))
    assert scheduler.leaving(batch, 0) == []


def test_a_batch_gets_smaller_for_a_request_with_a_min_exit():
    times = StageTimes([1, 2, 4], [[0.001, 0.010], [0.002, 0.020], [0.004, 0.040]])
    scheduler = Scheduler(times, [0.5, 0.9], clock=Clock())
    scheduler.policy.batch_size = lambda situation: 4
    for min_exit in (1, 0, 0, 0):
        scheduler.offer(Request(0.0, deadline=0.030 + 0.001 * (min_exit == 0), min_exit=min_exit))
    batch, _ = scheduler.next_batch()
    assert len(batch) == 2 and batch[0].min_exit == 1


def test_the_rate_is_kept_when_deadlines_change():
    for first, then in ((60.0, 0.05), (0.05, 60.0)):
        scheduler, clock = small()
        for number in range(2000):
            clock.now = number * 0.05
            scheduler.offer(Request(clock.now, clock.now + (first if number < 1800 else then)))
            scheduler.waiting.clear()
        assert scheduler.rate == pytest.approx(20, rel=0.2)


def test_static_policies_serve_in_order_of_arrival_and_are_late_under_load():
    scheduler, clock = small("exit_2")
    scheduler.offer(Request(0.0, deadline=0.5))
    scheduler.offer(Request(0.001, deadline=0.005))
    batch, _ = scheduler.next_batch()
    clock.now = 0.010
    assert [request.arrival for request in batch] == [0.0, 0.001] and scheduler.leaving(batch, 0) == []
    assert scheduler.leaving(batch, 1) == batch


def test_the_rate_follows_the_arrivals():
    scheduler, clock = small()
    for number in range(200):
        clock.now = number * 0.002
        try:
            scheduler.offer(Request(clock.now, clock.now + 0.02))
        except Overloaded:
            pass
    assert scheduler.rate == pytest.approx(500, rel=0.1)
    clock.now += 2.0
    assert scheduler.rate < 100


def test_bad_arguments_are_named():
    table = StageTimes([1], [[0.01, 0.02]])
    with pytest.raises(ValueError, match="`policy` must be one of .*'exit_2'.*Received: policy='exit_3'"):
        Scheduler(table, [0.5, 0.9], "exit_3", Clock())
    with pytest.raises(ValueError, match="`accuracies` must be a number from 0 to 1 for each of the 2 exits"):
        Scheduler(table, [0.5, 90], clock=Clock())
    with pytest.raises(ValueError, match="`thresholds` must be a number for each"):
        Scheduler(table, [0.5, 0.9], clock=Clock(), thresholds=[0.5])
    with pytest.raises(ValueError, match="`sizes` must begin with 1"):
        StageTimes([2], [[0.01]])
    with pytest.raises(ValueError, match="`straight` must have positive seconds for each of .1, 2.*Received: .0.02."):
        StageTimes([1, 2], [[0.01], [0.02]], straight=[0.02])
    with pytest.raises(ValueError, match="`kind` must be one of"):
        arrival_times("uniform", 10, 10)


def test_times_follow_the_machine():
    table = StageTimes([1, 4], [[0.01, 0.02], [0.02, 0.02]])
    for _ in range(200):
        table.saw(rows=4, position=0, seconds=0.04)
    assert table.pace == pytest.approx(2.0, rel=0.01) and 2.0 < table.safety < 2.2
    table.saw(rows=1, position=0, seconds=1.0)
    assert table.usual < 2.5, "one pause says little of the next stage"
    assert table.pace > 3, "but counts fully for what the machine can do"
    assert StageTimes([1, 4], [[0.01], [0.02]], padded=True).table[2, 1] == 0.02
