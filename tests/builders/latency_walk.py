"""The spans of every latency, found by walking over a store's events one by one.

Written from the definitions in docs/latency.md, not from the expressions that are under test: each event changes a few
dictionaries, and nothing looks ahead.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from hvtrace.store import Store

__all__ = ["Span", "in_order", "periodic", "walk"]

Event = dict[str, Any]
#: vm, vcpu, the measure's keys, seq, end_seq, ns.
Span = tuple[Any, ...]

FIXED = (0, 0x100)
MODES = {0x100: "lowest priority", 0x200: "SMI", 0x400: "NMI", 0x500: "INIT", 0x600: "SIPI", 0x700: "ExtINT"}
STARTS = {"kvm_hv_stimer_start_one_shot": "one-shot", "kvm_hv_stimer_start_periodic": "periodic"}
PLACES = {"kvm_entry": "guest", "kvm_exit": "kernel", "kvm_userspace_exit": "userspace"}
NO_FLUSH_TARGETS = "kvm_hv_flush_tlb_ex"


def _events(store: Store) -> Iterator[Event]:
    rows: list[tuple[int, str, Event]] = []
    for name in store.tracepoints:
        if name.startswith(("kvm_", "sched_")):
            rows += [(row["seq"], name, row) for row in store.scan(name).collect().to_dicts()]
    for _, name, row in sorted(rows, key=lambda r: r[0]):
        row["tracepoint"] = name
        row["place"] = None if row["vcpu"] is None else (row["vm"], row["vcpu"])
        yield row


class _Walk:
    def __init__(self, store: Store) -> None:
        self.found: dict[str, list[Span]] = defaultdict(list)
        self.vcpus = {vm["vm"]: [vcpu["vcpu"] for vcpu in vm["vcpus"]] for vm in store.manifest.vms}
        self.threads = {
            tid: (vm["vm"], vcpu["vcpu"])
            for vm in store.manifest.vms
            for vcpu in vm["vcpus"]
            for tid in vcpu["tids"]
        }
        self.raises = "kvm_hv_synic_set_irq" in store.tracepoints
        # Timers, by place and index.
        self.timer_last: dict[Any, Event] = {}
        self.timer_mode: dict[Any, str] = {}
        self.timer_config: dict[Any, int] = {}
        self.timer_failed: dict[Any, Event] = {}
        self.vcpu_expired: dict[Any, int] = {}
        # Interrupts, by place and vector.
        self.waiting: dict[Any, Event] = {}
        self.serving: dict[Any, tuple[Event, list[tuple[Event, Any]]]] = {}
        self.ended: dict[Any, int] = {}
        self.accepted_last: dict[Any, int] = {}
        self.posted_last: dict[Any, int] = {}
        self.to_inject: dict[Any, list[tuple[str, Event, Any, int]]] = defaultdict(list)
        # SynIC, by place.
        self.raised: dict[Any, Event] = {}
        self.source: dict[Any, int] = {}
        self.message: dict[Any, Event] = {}
        # Threads.
        self.open: dict[tuple[str, int], Event] = {}
        self.entered: dict[int, int] = {}
        self.exit: dict[int, Event] = {}
        self.asked: dict[int, list[tuple[Event, str, int]]] = defaultdict(list)
        self.flushes: dict[int, list[int | None]] = defaultdict(list)
        self.sent: dict[Any, tuple[Event, set[Any]]] = {}
        self.sched: dict[int, tuple[str, Event]] = {}
        self.woken: dict[int, Event] = {}
        self.was: dict[int, str] = {}

    def span(
        self, measure: str, place: Any, keys: tuple[Any, ...], begin: Event, end: Event, start: Any = None
    ) -> None:
        start = begin["ts_ns"] if start is None else start
        if place is not None:
            self.found[measure].append((*place, *keys, begin["seq"], end["seq"], end["ts_ns"] - start))

    # Timers

    def timer(self, row: Event) -> None:
        kind, place = row["tracepoint"].removeprefix("kvm_hv_stimer_"), row["place"]
        if place is None or not 0 <= row["timer_index"] < 256:
            return
        key = (place, row["timer_index"])
        last = self.timer_last.get(key)
        if row["tracepoint"] in STARTS:
            self.timer_mode[key] = STARTS[row["tracepoint"]]
        if kind == "set_config":
            self.timer_config[key] = row["config"]
        keys = (row["timer_index"], self.timer_mode.get(key))
        if kind == "callback" and last and last["tracepoint"] in STARTS:
            expires = last["count"] if "count" in last else last["exp_time"]
            row["due"] = (last, last["ts_ns"] + (expires - last["time_now"]) * 100)
            self.span("stimer-callback", place, keys, last, row, row["due"][1])
        if kind == "expiration" and last and last["tracepoint"] == "kvm_hv_stimer_callback":
            self.span("stimer-expiration", place, keys, last, row)
            row["due"] = last.get("due")
        self.retry(key, keys, row, kind)
        if kind == "expiration":
            if row["msg_send_result"] == 0:
                self.expired(key, keys, row, last)
            config = self.timer_config.get(key)
            if row["msg_send_result"] == -11 and config is not None:
                self.source[place] = config >> 16 & 15
            self.vcpu_expired[place] = row["seq"]
        self.timer_last[key] = row

    def retry(self, key: Any, keys: tuple[Any, ...], row: Event, kind: str) -> None:
        failed = self.timer_failed.get(key)
        if kind == "expiration" and row["msg_send_result"] != 0:
            self.timer_failed.setdefault(key, row)
        elif failed is not None:
            del self.timer_failed[key]
            if kind == "expiration":
                self.span("stimer-retry", key[0], (*keys, failed["msg_send_result"]), failed, row)

    def expired(self, key: Any, keys: tuple[Any, ...], row: Event, last: Event | None) -> None:
        place, config = key[0], self.timer_config.get(key)
        vector = None
        if row["direct"]:
            vector = None if config is None else config >> 4 & 0xFF
        elif self.raises:
            since = max(last["seq"] if last else -1, self.vcpu_expired.get(place, -1))
            raised = self.raised.get(place)
            if (
                raised is None
                or raised["seq"] <= since
                or (config is not None and config >> 16 & 15 != raised["sint"])
            ):
                return
            vector = raised["vector"]
        self.inject_later("stimer-injection", row, place, vector, keys)

    # Interrupts

    def inject_later(self, measure: str, row: Event, place: Any, vector: int | None, keys: Any) -> None:
        if place is None or vector is None:
            return
        key = (place, vector)
        accepted = self.accepted_last.get(key, -1)
        if self.posted_last.get(key, -1) <= accepted or accepted == self.posted_last.get(key, -1) == -1:
            self.to_inject[key].append((measure, row, keys, accepted))

    def accept(self, row: Event) -> None:
        if row["dm"] in FIXED and row["place"] is not None:
            key = (row["place"], row["vec"])
            self.waiting.setdefault(key, row)
            self.accepted_last[key] = row["seq"]
        self.ipi_accepted(row)

    def post(self, row: Event) -> None:
        if row["dm"] in FIXED and row["place"] is not None:
            key = (row["place"], row["vec"])
            self.waiting.pop(key, None)
            self.posted_last[key] = row["seq"]
            self.to_inject[key] = [entry for entry in self.to_inject[key] if entry[3] >= row["seq"]]
        self.ipi_accepted(row)

    def inject(self, row: Event) -> None:
        if row["place"] is None or row["reinjected"] or row["soft"] or row["vector"] > 255:
            return
        place, vector = key = (row["place"], row["vector"])
        if (first := self.waiting.pop(key, None)) is not None:
            self.span("accept-inject", place, (vector,), first, row)
        served = []
        for measure, begin, keys, _ in self.to_inject.pop(key, []):
            if measure == "sint-eoi":
                served.append((begin, keys))
            else:
                self.span(measure, place, keys, begin, row)
            if measure == "stimer-injection" and begin.get("due"):
                start, due = begin["due"]
                self.span("stimer-lateness", place, keys, start, row, due)
        self.serving[key] = (row, served)
        self.ended.pop(key, None)

    def end(self, row: Event) -> None:
        if row["place"] is None or not 0 <= row["vector"] < 256:
            return
        key = (row["place"], row["vector"])
        by_bit = row["tracepoint"] == "kvm_pv_eoi"
        if key in self.serving:
            injected, served = self.serving.pop(key)
            self.span("inject-eoi", key[0], (key[1], "pv" if by_bit else "exit"), injected, row)
            self.ended[key] = len(self.found["inject-eoi"]) - 1
            for begin, keys in served:
                self.span("sint-eoi", key[0], keys, begin, row)
        elif key in self.ended:
            index = self.ended.pop(key)
            if by_bit:
                vm, vcpu, vector, _, *rest = self.found["inject-eoi"][index]
                self.found["inject-eoi"][index] = (vm, vcpu, vector, "pv", *rest)

    # SynIC

    def raise_(self, row: Event) -> None:
        place = row["place"]
        if row["ret"] <= 0 or place is None:
            return
        self.raised[place] = row
        if 0 <= row["vector"] < 256:
            self.inject_later("sint-eoi", row, place, row["vector"], (row["sint"], row["vector"]))
            if self.threads.get(row["tid"]) == place:
                self.source[place] = row["sint"]
                self.message[place, row["sint"]] = row

    def set_msr(self, row: Event) -> None:
        if row["msr"] == 0x40000084 and not row["host"] and row["place"] in self.source:
            key = (row["place"], self.source[row["place"]])
            if (message := self.message.get(key)) is not None and not message.get("eom"):
                message["eom"] = True
                self.span("message-eom", row["place"], (key[1],), message, row)

    # IPIs

    def send(self, row: Event) -> None:
        if row["tracepoint"] == "kvm_hypercall":
            self.call(row, "kvm", row["nr"] & 0xFFFFFFFF)
            if row["nr"] != 10:
                return
            command = row["a3"]
        elif row["tracepoint"] == "kvm_apic_ipi":
            command = row["icr_low"]
        else:
            command = row["vector"] & 0xFF
        self.sent[row["tid"], command & 0x7FF & ~0x800] = (row, set())

    def ipi_accepted(self, row: Event) -> None:
        sent = self.sent.get((row["tid"], row["dm"] & 0x700 | row["vec"]))
        if sent is None or row["place"] is None or sent[0]["place"] is None:
            return
        send, reached = sent
        if (
            row["place"] in reached
            or send["vm"] != row["vm"]
            or self.entered.get(row["tid"], -1) > send["seq"]
        ):
            return
        reached.add(row["place"])
        keys = (row["vec"], MODES.get(row["dm"] & 0x700))
        self.span("ipi-accept", row["place"], keys, send, row)
        if row["dm"] & 0x700 in FIXED:
            key = (row["place"], row["vec"])
            accepted = (
                row["seq"] if row["tracepoint"] == "kvm_apic_accept_irq" else self.accepted_last.get(key, -1)
            )
            if row["tracepoint"] == "kvm_apic_accept_irq" or self.posted_last.get(key, -1) <= accepted:
                self.to_inject[key].append(("ipi-inject", send, keys, accepted))

    # Threads

    def begin(self, measure: str, row: Event) -> None:
        self.open[measure, row["tid"]] = row

    def finish(self, measure: str, row: Event, keys: Callable[[Event], tuple[Any, ...]]) -> Event | None:
        begin = self.open.pop((measure, row["tid"]), None)
        if begin is None or begin["place"] is None or begin["place"] != row["place"]:
            return None
        self.span(measure, begin["place"], keys(begin), begin, row)
        return begin

    def returned(self, row: Event) -> None:
        self.begin("userspace", row)
        self.was[row["tid"]] = row["tracepoint"] if row["place"] else self.was.get(row["tid"], "")

    def left(self, row: Event) -> None:
        if row["place"] is not None:
            self.exit[row["tid"]] = row
            self.was[row["tid"]] = row["tracepoint"]

    def call(self, row: Event, interface: str, code: int) -> None:
        self.asked[row["tid"]].append((row, interface, code))

    def hypercall(self, row: Event) -> None:
        self.call(row, "hv", row["code"])
        self.begin("hypercall", row)
        self.flushes.pop(row["tid"], None)

    def flush(self, row: Event) -> None:
        own = self.vcpus.get(row["vm"])
        everyone = (
            row.get("format") == 1
            if row["tracepoint"] == NO_FLUSH_TARGETS
            else (bool(row["flags"] & 1) or row["processor_mask"] == 0)
        )
        targets: int | None
        if everyone:
            targets = None if own is None else len(own)
        elif row["tracepoint"] == NO_FLUSH_TARGETS:
            targets = None
        else:
            mask = row["processor_mask"]
            targets = mask.bit_count() if own is None else sum(mask >> vcpu & 1 for vcpu in own if vcpu < 64)
        if row["place"] is not None:
            self.flushes[row["tid"]].append((targets, row["place"]))

    def done(self, row: Event) -> None:
        if row["place"] is None:
            return
        flushes = self.flushes.pop(row["tid"], [])
        begin = self.finish("hypercall", row, lambda begin: (begin["code"],))
        for targets, place in flushes if begin else []:
            self.span("tlb-flush", place, (begin["code"], targets), begin, row)

    def enter(self, row: Event) -> None:
        if row["place"] is None:
            return
        tid = row["tid"]
        self.finish("wakeup-entry", row, lambda begin: ("slept" if begin["waited"] else "polled",))
        self.finish(
            "userspace",
            row,
            lambda begin: (None, -begin["errno"]) if (begin["errno"] or 0) < 0 else (begin["reason"], None),
        )
        asked = [call for call in self.asked.pop(tid, []) if call[0]["place"] == row["place"]]
        left = self.exit.get(tid)
        if asked and left and left["seq"] > self.entered.get(tid, 1 << 62):
            self.span("hypercall-exit", row["place"], asked[0][1:], left, row)
        if (woken := self.woken.pop(tid, None)) is not None and self.threads[tid] == row["place"]:
            self.span("sched-wakeup-entry", row["place"], (), woken, row)
        self.entered[tid] = row["seq"]
        self.was[tid] = row["tracepoint"]

    def switch(self, row: Event) -> None:
        if (tid := row["prev_pid"]) in self.threads:
            goes_on = row["prev_state"] in (None, 0, 0x100)
            self.sched[tid] = ("preempted" if goes_on else "asleep", row)
            row["was"] = PLACES.get(self.was.get(tid, ""))
            if not goes_on:
                self.woken.pop(tid, None)
        if (tid := row["next_pid"]) in self.threads:
            state, begin = self.sched.get(tid, ("", row))
            if state == "preempted":
                keys = (begin["next_comm"], begin["next_pid"], begin["was"])
                self.span("preempted", self.threads[tid], keys, begin, row)
            if state == "woken":
                self.span("sched-wakeup-run", self.threads[tid], (), begin, row)
            self.sched[tid] = ("running", row)

    def wake(self, row: Event) -> None:
        tid = row["pid"]
        if tid in self.threads and self.sched.get(tid, ("", row))[0] == "asleep":
            self.sched[tid] = ("woken", row)
            self.woken[tid] = row


def walk(store: Store) -> dict[str, list[Span]]:
    """Return the spans of each measure, whatever their state: (vm, vcpu, keys …, seq, end_seq, ns), sorted by seq."""
    state = _Walk(store)
    handlers: dict[str, Callable[[Event], None]] = {
        "kvm_apic_accept_irq": state.accept,
        "kvm_apicv_accept_irq": state.post,
        "kvm_inj_virq": state.inject,
        "kvm_eoi": state.end,
        "kvm_pv_eoi": state.end,
        "kvm_hv_synic_set_irq": state.raise_,
        "kvm_hv_synic_set_msr": state.set_msr,
        "kvm_hv_send_ipi": state.send,
        "kvm_hv_send_ipi_ex": state.send,
        "kvm_apic_ipi": state.send,
        "kvm_hypercall": state.send,
        "kvm_hv_hypercall": state.hypercall,
        "kvm_hv_hypercall_done": state.done,
        "kvm_hv_flush_tlb": state.flush,
        NO_FLUSH_TARGETS: state.flush,
        "kvm_vcpu_wakeup": lambda row: state.begin("wakeup-entry", row),
        "kvm_userspace_exit": state.returned,
        "kvm_exit": state.left,
        "kvm_entry": state.enter,
        "sched_switch": state.switch,
        "sched_wakeup": state.wake,
    }
    for row in _events(store):
        if row["tracepoint"].startswith("kvm_hv_stimer_"):
            state.timer(row)
        elif (handler := handlers.get(row["tracepoint"])) is not None:
            handler(row)
    return {name: sorted(spans, key=in_order) for name, spans in state.found.items()}


def in_order(span: Span) -> tuple[int, ...]:
    """Sorting key: by the ranks of both events, and the vCPU."""
    return span[-3], span[-2], span[1]


def periodic(store: Store) -> dict[tuple[Any, ...], tuple[int, ...]]:
    """Return (vm, vcpu, timer, period_ns) → starts, periods, lost, drift_ns, expirations of each periodic timer.

    Only where the count was written in the recording before the timer's first start.
    """
    table: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0] * 5)
    count: dict[Any, int] = {}
    due: dict[Any, tuple[int, int]] = {}
    for row in _events(store):
        if not row["tracepoint"].startswith("kvm_hv_stimer_") or row["place"] is None:
            continue
        kind, timer = row["tracepoint"].removeprefix("kvm_hv_stimer_"), (*row["place"], row["timer_index"])
        if kind == "set_count":
            count[timer] = row["count"]
        if kind in ("set_count", "set_config", "cleanup", "start_one_shot"):
            due.pop(timer, None)
        elif kind == "expiration" and timer in due:
            table[*timer, count[timer] * 100][4] += 1
        elif kind == "start_periodic":
            own = table[*timer, count[timer] * 100]
            own[0] += 1
            before, drift = due.get(timer, (None, 0))
            if before is not None:
                passed = round((row["exp_time"] - before) / count[timer] + 1e-9)
                drift += row["exp_time"] - before - passed * count[timer]
                own[1] += passed
                own[2] += max(passed - 1, 0)
                own[3] = max(own[3], abs(drift) * 100)
            due[timer] = (row["exp_time"], drift)
    return {key: tuple(own) for key, own in table.items()}
