"""Losses that text recordings tell of."""

from __future__ import annotations

import pytest

from hvtrace.parsers.recording import Lost

from .helpers import losses, recording, rows


def line(cpu: int, us: int) -> str:
    return f" qemu-system-x86-206     [{cpu:03}] .....     1.{us:06}: kvm_fpu: load\n"


def test_a_loss_lies_between_the_stamps_of_its_cpu() -> None:
    """From the CPU's event before it to the CPU's event after it, whatever other CPUs do meanwhile."""
    text = line(0, 1) + line(1, 2) + "CPU:0 [LOST 20 EVENTS]\n" + line(1, 3) + line(0, 4)
    assert losses(text) == [Lost(0, 1_000_001_000, 1_000_004_000, 20)]


def test_every_spelling_of_a_loss() -> None:
    """ftrace's with and without a number, trace-cmd's with and without a number."""
    spellings = (
        "CPU:0 [LOST 20 EVENTS]",
        "CPU:0 [LOST EVENTS]",
        "CPU:0 [7 EVENTS DROPPED]",
        "CPU:0 [EVENTS DROPPED]",
    )
    text = line(0, 1) + "".join(f"{s}\n{line(0, 2 + i)}" for i, s in enumerate(spellings))
    assert [lost.count for lost in losses(text)] == [20, None, 7, None]


def test_a_loss_at_the_start_or_the_end_is_open_there() -> None:
    text = "CPU:1 [LOST 3 EVENTS]\n" + line(1, 1) + line(0, 2) + "CPU:0 [LOST 4 EVENTS]\n"
    assert losses(text) == [Lost(1, None, 1_000_001_000, 3), Lost(0, 1_000_002_000, None, 4)]


def test_an_overwritten_buffer_lost_its_start() -> None:
    """The header's two numbers differ by what was overwritten."""
    header = "# tracer: nop\n#\n# entries-in-buffer/entries-written: 16323/410752   #P:2\n#\n"
    assert losses(header + line(0, 1)) == [Lost(None, None, 1_000_001_000, 394_429)]


def test_each_cpu_s_buffer_was_overwritten_up_to_its_own_start() -> None:
    """Until its first event nothing is known of a CPU: the header tells that buffers were full, or a line does."""
    header = "# tracer: nop\n#\n# entries-in-buffer/entries-written: 3/10   #P:2\n#\n"
    body = line(1, 1) + "##### CPU 0 buffer started ####\n" + line(0, 5) + line(1, 6)
    later = Lost(0, 1_000_001_000, 1_000_005_000, None)
    assert losses(header + body) == [Lost(None, None, 1_000_001_000, 7), later]
    assert losses("# tracer: nop\n" + body) == [later]
    assert losses(header.replace("3/10", "3/3") + line(1, 1) + line(0, 5)) == []


def test_a_buffer_that_was_not_overwritten_lost_nothing() -> None:
    header = "# tracer: nop\n#\n# entries-in-buffer/entries-written: 2/2   #P:2\n#\n"
    assert losses(header + line(0, 1)) == []


def test_an_event_whose_text_is_cut_is_lost() -> None:
    """Of which only the name can be read, nothing is taken: it is a hole between its CPU's other events."""
    cut = " qemu-system-x86-206     [000] .....     1.000003: kvm_msr: msr_wri\n"
    text = line(0, 1) + line(1, 2) + cut + cut + line(1, 4) + line(0, 5)
    assert losses(text) == [Lost(0, 1_000_001_000, 1_000_005_000, 2)]
    assert [row["seq"] for row in rows(text)] == [0, 1, 2, 3]


def test_a_line_that_may_have_been_an_event_is_a_hole() -> None:
    """On which CPU is not known; a line that never was an event is none."""
    text = (
        line(0, 1) + "tem-x86-206     [000] ....\n" + line(1, 2) + "and nothing of that kind\n" + line(1, 4)
    )
    assert losses(text) == [Lost(None, 1_000_001_000, 1_000_002_000, None)]


def test_a_hole_may_reach_over_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows are cut anywhere: a loss takes its ends from the windows around it."""
    monkeypatch.setattr("hvtrace.parsers.text.recording.BLOCK", 100)
    text = line(0, 1) + line(1, 2) + "CPU:0 [LOST 20 EVENTS]\n" + line(1, 3) + line(1, 4) + line(0, 5)
    assert losses(text) == [Lost(0, 1_000_001_000, 1_000_005_000, 20)]
    assert len(list(recording(text).windows())) > 2
