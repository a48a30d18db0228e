"""Synthetic timers: lateness in its three steps, tries that fail, and the grid of periodic ones."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from builders.store import Row, tiny_store

from hvtrace.analysis.latency import Question, latency, spans

ONE_SHOT, PERIODIC = 0x0003_0001, 0x0003_0003
DIRECT = 0x1001 | 0x40 << 4


def at(ts: int, name: str, *, vcpu: int = 0, timer: int = 0, **fields: Any) -> Row:
    return ts, f"kvm_hv_stimer_{name}", vcpu, 0, {"timer_index": timer, **fields}


def start(ts: int, now: int, expires: int, **place: int) -> Row:
    return at(ts, "start_one_shot", time_now=now, count=expires, **place)


def periodic(ts: int, now: int, expires: int, **place: int) -> Row:
    return at(ts, "start_periodic", time_now=now, exp_time=expires, **place)


def expiration(ts: int, result: int = 0, direct: int = 0, **place: int) -> Row:
    return at(ts, "expiration", direct=direct, msg_send_result=result, **place)


def raised(ts: int, sint: int = 3, vector: int = 0xF3) -> Row:
    return ts, "kvm_hv_synic_set_irq", 0, 0, {"sint": sint, "vector": vector, "ret": 1}


def injected(ts: int, vector: int = 0xF3) -> Row:
    return ts, "kvm_inj_virq", 0, 0, {"vector": vector, "soft": False, "reinjected": False}


def found(path: Path, rows: Iterable[Row], measure: str, **store: Any) -> list[tuple[Any, ...]]:
    """Spans as (subject, seq, end_seq, ns, state)."""
    frame = spans(tiny_store(path / "t.hvt", rows, **store), Question(), measure)
    return frame.select("subject", "seq", "end_seq", "ns", frame["state"].cast(str)).rows()


def test_a_timer_is_due_when_its_start_says(tmp_path: Path) -> None:
    """The start's stamp, and from there exp_time − time_now in units of 100 ns."""
    rows = [start(1_000, 50, 150), at(11_700, "callback")]
    assert found(tmp_path, rows, "stimer-callback") == [("timer 0 one-shot", 0, 1, 700, "whole")]
    due = spans(tiny_store(tmp_path / "u.hvt", rows), Question(), "stimer-callback")
    assert due.select("ts_ns", "end_ns").rows() == [(11_000, 11_700)]


def test_a_timer_armed_again_is_due_by_its_last_start(tmp_path: Path) -> None:
    """What was armed before was never due."""
    rows = [start(1_000, 50, 60), start(1_500, 55, 75), at(3_600, "callback")]
    assert found(tmp_path, rows, "stimer-callback") == [("timer 0 one-shot", 1, 2, 100, "whole")]


def test_a_callback_of_a_stopped_timer_was_not_due(tmp_path: Path) -> None:
    """It raced with the stop; it is counted as without a beginning."""
    rows = [start(1_000, 50, 60), at(1_900, "cleanup"), at(2_000, "callback")]
    answer = latency(tiny_store(tmp_path / "t.hvt", rows), Question(measures=("stimer-callback",)))
    assert (answer.rows, answer.counted[0]["excluded"]["unpaired"]) == ([], 1)


def test_a_callback_before_it_is_due_is_backwards(tmp_path: Path) -> None:
    """The start was stamped later than its time_now was read: no figure comes from it."""
    rows = [start(1_000, 50, 60), at(1_999, "callback")]
    assert found(tmp_path, rows, "stimer-callback") == [("timer 0 one-shot", 0, 1, -1, "backwards")]


def test_an_expiry_in_hundreds_of_years_is_not_told_in_ns(tmp_path: Path) -> None:
    """A guest may ask for any count."""
    rows = [start(1_000, 0, (1 << 64) - 1), at(2_000, "callback")]
    assert found(tmp_path, rows, "stimer-callback") == []


def test_events_lost_since_the_start_make_lateness_unknown(tmp_path: Path) -> None:
    """The timer may have been armed anew, on any CPU, also before it was due."""
    rows = [start(1_000, 50, 150), at(11_700, "callback")]
    lost = [{"cpu": 5, "from_ns": 2_000, "to_ns": 3_000, "count": 7}]
    assert found(tmp_path, rows, "stimer-callback", lost=lost) == [("timer 0 one-shot", 0, 1, 700, "lost")]


def test_the_callback_is_processed_by_an_expiration(tmp_path: Path) -> None:
    """Of its own timer; one that the guest set meanwhile has none."""
    rows = [
        at(10, "callback"),
        at(20, "callback", timer=1),
        at(30, "set_count", timer=1, count=7),
        expiration(50),
        expiration(60, timer=1),
    ]
    assert found(tmp_path, rows, "stimer-expiration") == [("timer 0", 0, 3, 40, "whole")]


def test_a_message_is_injected_as_its_source_s_vector(tmp_path: Path) -> None:
    """The one raised right before the expiration; other vectors are others' interrupts."""
    rows = [
        at(0, "set_config", config=ONE_SHOT),
        raised(10),
        expiration(12),
        injected(20, 0x30),
        injected(25),
    ]
    assert found(tmp_path, rows, "stimer-injection") == [("timer 0", 2, 4, 13, "whole")]


def test_direct_mode_injects_the_configured_vector(tmp_path: Path) -> None:
    """CONFIG bits 11:4; not known where the write was before the recording."""
    rows = [expiration(5, direct=1), injected(8, 0x40), at(10, "set_config", config=DIRECT)]
    rows += [expiration(20, direct=1), injected(29, 0x40)]
    assert found(tmp_path, rows, "stimer-injection") == [("timer 0", 3, 4, 9, "whole")]


def test_a_tick_that_was_dropped_raised_nothing(tmp_path: Path) -> None:
    """A periodic timer whose slot is busy expires with result 0, and nothing raised since the event before is its."""
    rows = [at(0, "set_config", config=PERIODIC), raised(10), expiration(11), expiration(30), injected(40)]
    assert found(tmp_path, rows, "stimer-injection") == [("timer 0", 2, 4, 29, "whole")]


def test_two_timers_may_share_an_injection(tmp_path: Path) -> None:
    """The second message found the interrupt waiting already: both waited."""
    rows = [raised(10), expiration(11), raised(12), expiration(13, timer=1), injected(20)]
    assert found(tmp_path, rows, "stimer-injection") == [
        ("timer 0", 1, 4, 9, "whole"),
        ("timer 1", 3, 4, 7, "whole"),
    ]


def test_lateness_in_all_is_the_sum_of_its_steps(tmp_path: Path) -> None:
    """Due, callback, expiration, injection; a timer that was stopped in between has no such sum."""
    rows = [
        start(1_000, 50, 150),
        at(11_700, "callback"),
        raised(12_000),
        expiration(12_100),
        injected(12_400),
    ]
    rows += [start(20_000, 50, 51), at(20_200, "callback"), at(20_300, "set_count", count=0)]
    assert found(tmp_path, rows, "stimer-lateness") == [("timer 0 one-shot", 0, 4, 1_400, "whole")]
    steps = [
        found(tmp_path / step, rows, f"stimer-{step}")[0][3]
        for step in ("callback", "expiration", "injection")
    ]
    assert steps == [700, 400, 300]
    answer = latency(tiny_store(tmp_path / "u.hvt", rows), Question(measures=("stimer-lateness",)))
    assert answer.counted[0]["excluded"]["unpaired"] == 1


def test_what_fails_lasts_until_it_succeeds(tmp_path: Path) -> None:
    """From the first try; what stops the timer ends it without success."""
    rows = [expiration(10, -11), expiration(20, -11), expiration(35), expiration(40, -2), at(50, "cleanup")]
    assert found(tmp_path, rows, "stimer-retry") == [("timer 0: message slot busy", 0, 2, 25, "whole")]


def timers(path: Path, rows: Iterable[Row], **asked: Any) -> list[tuple[Any, ...]]:
    """(timer, period_ns, starts, periods, lost, drift_ns, expirations, dropped) of each periodic timer."""
    answer = latency(tiny_store(path / "t.hvt", rows), Question(**asked))
    names = ("timer", "period_ns", "starts", "periods", "lost", "drift_ns", "expirations", "dropped")
    return [tuple(row[name] for name in names) for row in answer.timers]


def test_periods_that_passed_without_an_expiry_are_lost_ticks(tmp_path: Path) -> None:
    """exp_time advances by whole periods: here by one, then by three."""
    rows = [at(0, "set_count", count=10), periodic(1, 100, 110), expiration(1_100), periodic(1_101, 111, 120)]
    rows += [expiration(3_100), periodic(3_101, 141, 150)]
    assert timers(tmp_path, rows) == [(0, 1_000, 3, 4, 2, 0, 2, None)]


def test_a_timer_that_counts_from_now_drifts(tmp_path: Path) -> None:
    """Each expiry lies further off the grid that began with the first: 3 and 5 units of 100 ns."""
    rows = [at(0, "set_count", count=10), periodic(1, 100, 110), periodic(2, 113, 123), periodic(3, 125, 135)]
    assert timers(tmp_path, rows) == [(0, 1_000, 3, 2, 0, 500, 0, None)]


def test_a_timer_that_is_set_begins_a_new_grid(tmp_path: Path) -> None:
    """So does one that is stopped; the step between is none of the timer's."""
    rows = [at(0, "set_count", count=10), periodic(1, 100, 110), at(2, "cleanup"), periodic(3, 117, 127)]
    rows += [at(4, "set_count", count=20), periodic(5, 200, 220), periodic(6, 221, 240)]
    assert timers(tmp_path, rows) == [(0, 1_000, 2, 0, 0, 0, 0, None), (0, 2_000, 2, 1, 0, 0, 0, None)]


def test_an_expiry_in_the_past_is_none_of_the_periodic_timer(tmp_path: Path) -> None:
    """A one-shot timer whose count has passed expires without being armed."""
    rows = [at(0, "set_count", count=10), periodic(1, 100, 110), expiration(1_100), at(1_200, "cleanup")]
    rows += [at(1_300, "set_count", count=50), expiration(1_400)]
    assert timers(tmp_path, rows) == [(0, 1_000, 1, 0, 0, 0, 1, None)]


def test_a_start_that_keeps_its_expiry_passes_no_period(tmp_path: Path) -> None:
    """KVM arms again what was woken early."""
    rows = [at(0, "set_count", count=10), periodic(1, 100, 110), periodic(2, 105, 110), periodic(3, 111, 120)]
    assert timers(tmp_path, rows) == [(0, 1_000, 3, 1, 0, 0, 0, None)]


def test_a_period_set_before_the_recording_is_the_shortest_step(tmp_path: Path) -> None:
    """The grid is that of the expiries seen."""
    rows = [periodic(1, 100, 110), periodic(2, 131, 140), periodic(3, 141, 150)]
    assert timers(tmp_path, rows) == [(0, 1_000, 3, 4, 2, 0, 0, None)]


def test_ticks_dropped_are_told_apart(tmp_path: Path) -> None:
    """An expiration with result 0 and no interrupt, where interrupts of sources were recorded."""
    rows = [at(0, "set_config", config=PERIODIC), at(0, "set_count", count=10), periodic(1, 100, 110)]
    rows += [raised(10), expiration(11), expiration(30)]
    assert timers(tmp_path, rows) == [(0, 1_000, 1, 0, 0, 0, 2, 1)]


def test_drift_is_told_where_the_clock_counts_ticks(tmp_path: Path) -> None:
    """It is in the guest's time; when a timer was due on the recording's clock is not known."""
    rows = [at(0, "set_count", count=10), periodic(1, 100, 110), at(2, "callback"), periodic(3, 111, 120)]
    answer = latency(
        tiny_store(tmp_path / "t.hvt", rows, unit="ticks"), Question(measures=("stimer-callback",))
    )
    assert [(row["measure"], row["why"]) for row in answer.absent] == [("stimer-callback", "ticks")]
    assert [row["periods"] for row in answer.timers] == [1]
