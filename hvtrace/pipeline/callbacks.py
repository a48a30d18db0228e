"""Timer callbacks fire in interrupts: with several VMs, which one's timer was it?

The one whose timer was armed and due, if that is true of one VM alone; else it stays open.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hvtrace.pipeline.evidence import numpy_column

__all__ = ["ARMING", "CALLBACK", "DISARMING", "ArmedTimers"]

CALLBACK = "kvm_hv_stimer_callback"

#: What arms a synthetic timer, and the field that says for when, in 100 ns of reference time.
ARMING = {"kvm_hv_stimer_start_one_shot": "count", "kvm_hv_stimer_start_periodic": "exp_time"}
#: What ends that.
DISARMING = ("kvm_hv_stimer_cleanup", "kvm_hv_stimer_expiration")

#: Stamps lag the values they carry: a timer counts as due when it is due within this.
DUE_SLACK_NS = 5_000_000
NEVER = 1 << 62

Column = npt.NDArray[np.int64]


@dataclass(slots=True)
class ArmedTimers:
    """When each VM's timers are due, over the windows of a recording.

    `_keys` and `_due`: the state at the end of the last window, by timer; NEVER where it is not armed.
    """

    _keys: dict[int, Column] = field(default_factory=dict)
    _due: dict[int, Column] = field(default_factory=dict)

    def owners(
        self, tables: dict[str, tuple[pa.RecordBatch, Column]], rows: pa.RecordBatch | None
    ) -> Column | None:
        """Return the VM of each callback in `rows` (None: there are none), −1 where it is not certain.

        `tables` are the window's arming and disarming events, each with its rows' VMs (−1 unknown).
        """
        parts = [_states(name, table, vm) for name, (table, vm) in tables.items()]
        empty = np.empty(0, np.int64)
        parts.append((empty, empty, empty, empty))
        vm, key, seq, due = (np.concatenate(column) for column in zip(*parts, strict=True))
        asked, at, ts = (empty,) * 3 if rows is None else (_timer(rows), *_when(rows))
        found, claims = np.full(len(at), -1, np.int64), np.zeros(len(at), np.int64)
        for number in sorted({*np.unique(vm[vm >= 0]).tolist(), *self._keys}):
            mine = vm == number
            # The state before this window stands first, as if at seq −1.
            keys = np.concatenate([self._keys.get(number, empty), key[mine]])
            when = np.concatenate([np.full(len(self._keys.get(number, empty)), -1), seq[mine]])
            until = np.concatenate([self._due.get(number, empty), due[mine]])
            order = np.lexsort((when, keys))
            keys, when, until = keys[order], when[order], until[order]
            rank = np.searchsorted((keys << 40) + when + 1, (asked << 40) + at + 1) - 1
            before = (rank >= 0) & (keys[rank] == asked) if len(keys) else np.zeros(len(at), np.bool_)
            ready = before.copy()
            ready[before] = until[rank[before]] <= ts[before] + DUE_SLACK_NS
            found[ready] = number
            claims += ready
            last = np.flatnonzero(np.append(keys[1:] != keys[:-1], True)) if len(keys) else empty
            self._keys[number], self._due[number] = keys[last], until[last]
        found[claims != 1] = -1
        return None if rows is None else found


def _timer(table: pa.RecordBatch) -> Column:
    """Return one number for (vCPU, timer)."""
    return (np.clip(numpy_column(table, "vcpu_id"), 0, (1 << 16) - 1) << 4) | (
        numpy_column(table, "timer_index") & 15
    )


def _when(table: pa.RecordBatch) -> tuple[Column, Column]:
    return numpy_column(table, "seq"), numpy_column(table, "ts_ns")


def _states(name: str, table: pa.RecordBatch, vm: Column) -> tuple[Column, Column, Column, Column]:
    """(vm, timer, seq, due) of arming and disarming events."""
    due = np.full(table.num_rows, NEVER, np.int64)
    if name in ARMING:
        left = numpy_column(table, ARMING[name]) - numpy_column(table, "time_now")
        due = numpy_column(table, "ts_ns") + 100 * np.clip(left, 0, 1 << 52)
    return vm, _timer(table), numpy_column(table, "seq"), due
