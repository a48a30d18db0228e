"""What a timeline should hold beside the states, found event by event: timers, SINTs, interrupts, threads, flows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from builders.timeline import Timeline
from hvtrace.store import Store

__all__ = ["Expected", "compare", "expected"]

CATEGORIES = ("stimer", "message", "synic", "interrupt", "sched")

#: One slice: track, start, end, name, and whether the recording's end cuts it off. An instant's end is None.
Piece = tuple[tuple[str, ...], int, int | None, str, bool]

STARTS = {
    "kvm_hv_stimer_start_one_shot": "armed (one-shot)",
    "kvm_hv_stimer_start_periodic": "armed (periodic)",
}
STOPS = ("kvm_hv_stimer_set_config", "kvm_hv_stimer_set_count", "kvm_hv_stimer_cleanup")
CALLBACK, EXPIRATION = "kvm_hv_stimer_callback", "kvm_hv_stimer_expiration"
TIMER = (*STARTS, *STOPS, CALLBACK, EXPIRATION)
WHY = {-11: "message slot busy", -2: "no message page, or SINT masked", -14: "APIC off", 1: "APIC off"}
DELIVERED, ACKNOWLEDGED = "kvm_hv_synic_set_irq", "kvm_hv_notify_acked_sint"
ACCEPTED, INJECTED, EOI = "kvm_apic_accept_irq", "kvm_inj_virq", "kvm_eoi"
SENT = ("kvm_hv_send_ipi", "kvm_hv_send_ipi_ex", "kvm_apic_ipi", "kvm_hypercall")
FLUSHED = ("kvm_hv_flush_tlb", "kvm_hv_flush_tlb_ex")
POINTS = ("kvm_entry", "kvm_exit", "kvm_userspace_exit")
SCHED = ("sched_switch", "sched_wakeup")
#: prev_state of a thread that is dead or a zombie.
EXITED = (0x10, 0x20)

TABLES = (*TIMER, DELIVERED, ACKNOWLEDGED, ACCEPTED, INJECTED, EOI, *SENT, *FLUSHED, *POINTS, *SCHED)


class Expected:
    """`pieces`: all that is drawn on these tracks. `flows`: what is on each, in no order.

    On a flow are the track and the start of pieces, and of the exits and guest times of vCPUs.
    """

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.flows: dict[int, list[tuple[tuple[str, ...], int]]] = defaultdict(list)


def events(store: Store) -> Iterator[dict[str, Any]]:
    """Yield rows of the tables concerned, in order of `seq`, with their tracepoint as `what`."""
    rows: list[dict[str, Any]] = []
    for table in TABLES:
        if store.has(table):
            rows += [row | {"what": table} for row in store.scan(table).collect().to_dicts()]
    yield from sorted(rows, key=lambda row: int(row["seq"]))


def compare(store: Store, timeline: Timeline) -> None:
    """Assert that a timeline holds exactly what it should, on these tracks and flows."""
    should = expected(store)
    drawn = [s for s in timeline.slices if s.category in CATEGORIES]
    instants = [s for s in timeline.instants if s.category in CATEGORIES]
    pieces: list[Piece] = [
        (s.track, s.start, s.end, s.name, s.arguments.get("unfinished", False)) for s in drawn
    ]
    pieces += [(s.track, s.start, None, s.name, "unfinished" in s.arguments) for s in instants]
    assert Counter(pieces) == Counter(should.pieces)
    states = {(s.track, s.start) for s in timeline.slices if s.depth == 0 and of_states(s.track)}
    flows = {
        flow: sorted(at for at in on if not of_states(at[0]) or at in states)
        for flow, on in should.flows.items()
    }
    found = {flow: sorted((s.track, s.start) for s in on) for flow, on in timeline.flows().items()}
    assert found == {flow: on for flow, on in flows.items() if on}


def of_states(track: tuple[str, ...]) -> bool:
    """Whether it is a vCPU's own track."""
    return track[-1].startswith("vCPU ")


def expected(store: Store) -> Expected:
    """Walk over a store."""
    walk = _Walk(store)
    for row in events(store):
        walk.take(row)
    walk.finish()
    return walk.found


class _Walk:
    def __init__(self, store: Store) -> None:
        self.found = Expected()
        self.lost = store.scan("lost").collect().to_dicts() if store.has("lost") else []
        self.names = {vm["vm"]: vm["name"] or f"VM {vm['vm']}" for vm in store.manifest.vms}
        self.group = ("VMs",) if len(self.names) > 10 else ()
        self.vcpus = {(vm["vm"], v["vcpu"]) for vm in store.manifest.vms for v in vm["vcpus"]}
        self.last_ns = store.manifest.time["last_ns"]
        self.to_the_end = {vm["vm"] for vm in store.manifest.vms if vm["last_seq"] is None}
        self.threads: dict[int, list[tuple[int, int, tuple[int, int]]]] = defaultdict(list)
        for vm in store.manifest.vms:
            last = 1 << 62 if vm["last_seq"] is None else vm["last_seq"]
            for vcpu in vm["vcpus"]:
                for tid in vcpu["tids"]:
                    self.threads[tid].append((vm["first_seq"] or 0, last, (vm["vm"], vcpu["vcpu"])))
        self.timers: dict[Any, dict[str, Any]] = defaultdict(dict)
        self.sints: dict[Any, dict[str, Any]] = {}
        self.accepts: dict[Any, int] = {}
        self.vectors: dict[Any, dict[str, Any]] = defaultdict(lambda: {"raised": []})
        self.states: dict[Any, tuple[str, int, dict[str, Any]]] = {}
        self.last_expiration: dict[Any, int] = {}
        self.last_delivery: dict[Any, tuple[int, int | None]] = {}
        self.last_raised: dict[Any, int] = {}
        self.units: dict[Any, list[list[dict[str, Any]]]] = defaultdict(lambda: [[]])
        self.senders: dict[Any, tuple[Any, int]] = {}
        #: Marks: vCPU, number of its unit, place in it, flow. And vCPU, seq, flow: the guest time after it.
        self.around: list[tuple[Any, int, int, int]] = []
        self.entering: list[tuple[Any, int, int]] = []

    def track(self, vcpu: tuple[int, int], *further: str) -> tuple[str, ...]:
        return (*self.group, self.names.get(vcpu[0], "VM not known"), f"vCPU {vcpu[1]}", *further)

    def whole(self, start: int, end: int) -> bool:
        """Nothing was lost in between, and time runs forwards."""
        return end >= start and not any(
            (row["to_ns"] is None or row["to_ns"] > start)
            and (row["from_ns"] is None or row["from_ns"] < end)
            for row in self.lost
        )

    def draw(
        self,
        track: tuple[str, ...],
        start: int,
        end: int | None,
        name: str,
        flows: list[int],
        unfinished: bool = False,
    ) -> None:
        if end is not None and not self.whole(start, end):
            return
        self.found.pieces.append((track, start, end, name, unfinished))
        for flow in flows:
            self.found.flows[flow].append((track, start))

    def mark(self, vcpu: Any, flow: int) -> None:
        units = self.units[vcpu]
        self.around.append((vcpu, len(units) - 1, len(units[-1]), flow))

    def take(self, row: dict[str, Any]) -> None:
        what = row["what"]
        if what in SCHED:
            self.sched(row)
        if row["vcpu"] is None or what in SCHED:
            return
        vcpu = (0xFFFF if row["vm"] is None else row["vm"], row["vcpu"])
        if what in POINTS:
            if what == "kvm_entry":
                self.units[vcpu].append([])
            self.units[vcpu][-1].append(row)
        elif what in TIMER:
            if row["timer_index"] in range(4):
                self.timer(vcpu, row)
        elif what in (DELIVERED, ACKNOWLEDGED):
            if row["sint"] in range(16):
                self.sint(vcpu, row)
        elif what == ACCEPTED:
            if row["vec"] in range(256) and row["dm"] in (0, 0x100):
                self.accept(vcpu, row)
        elif what == INJECTED:
            if row["vector"] in range(256) and not row["soft"] and not row["reinjected"]:
                self.inject(vcpu, row)
        elif what == EOI:
            if row["vector"] in range(256):
                self.eoi(vcpu, row)
        elif what in SENT:
            self.send(vcpu, row)
        else:
            self.flush(vcpu, row)

    def timer(self, vcpu: Any, row: dict[str, Any]) -> None:
        what, index = row["what"], row["timer_index"]
        timer, track = self.timers[vcpu, index], self.track(vcpu, "Synthetic timers", f"STIMER{index}")
        if (open_piece := timer.pop("open", None)) is not None:
            where, start, name, flows = open_piece
            for on in where:
                self.draw(on, start, row["ts_ns"], name if on == track else "message pending", flows)
        flows = [timer["life"]] if "life" in timer else []
        if what in STOPS:
            timer.pop("life", None)
            timer["stopped"] = True
            timer["config"] = row.get("config", timer.get("config"))
        elif what in STARTS:
            timer["life"] = row["seq"] << 16 | 2
            if timer.get("last") in STOPS:
                self.mark(vcpu, timer["life"])
            timer["stopped"] = False
            timer["open"] = [track], row["ts_ns"], STARTS[what], [timer["life"]]
        elif what == CALLBACK:
            if timer.get("stopped"):
                self.draw(track, row["ts_ns"], None, "callback after a stop", [])
            else:
                timer["open"] = [track], row["ts_ns"], "callback", flows
        elif (result := row["msg_send_result"]) == 0:
            raised = self.raised_for(vcpu, timer)
            self.draw(track, row["ts_ns"], None, "expired", flows + raised)
        elif result is not None:
            where, config = [track], timer.get("config")
            if result == -11 and config is not None and not config >> 12 & 1:
                sint = config >> 16 & 15
                where.append(self.track(vcpu, "SynIC", f"SINT{sint} pending (STIMER{index})"))
            timer["open"] = (
                where,
                row["ts_ns"],
                f"expired: {WHY.get(result, f'not delivered ({result})')}",
                flows,
            )
        if what == EXPIRATION:
            self.last_expiration[vcpu] = row["seq"]
        timer["last"], timer["last_seq"] = what, row["seq"]

    def raised_for(self, vcpu: Any, timer: dict[str, Any]) -> list[int]:
        """The interrupt raised for this expiration: since the timer's event before, and the vCPU's last expiration."""
        since = max(timer.get("last_seq", -1), self.last_expiration.get(vcpu, -1))
        if (config := timer.get("config")) is None:
            return []
        if config >> 12 & 1:
            accept: int | None = self.last_raised.get((vcpu, config >> 4 & 0xFF))
        else:
            _, accept = self.last_delivery.get((vcpu, config >> 16 & 15), (-1, None))
        return [accept << 16 | 1] if accept is not None and accept > since else []

    def sint(self, vcpu: Any, row: dict[str, Any]) -> None:
        key, track = (vcpu, row["sint"]), self.track(vcpu, "SynIC", f"SINT{row['sint']}")
        if (last := self.sints.pop(key, None)) is not None:
            acked = row["what"] == ACKNOWLEDGED
            self.draw(track, last["ts_ns"], row["ts_ns"] if acked else None, last["name"], last["flows"])
        if row["what"] == DELIVERED:
            taken = (row["ret"] or 0) > 0
            before, _ = self.last_delivery.get(key, (-1, None))
            raised = self.accepts.get((row["tid"], vcpu, row["vector"]), -1)
            accept = raised if taken and raised > before else None
            self.last_delivery[key] = (row["seq"], accept)
            name = f"{'' if taken else 'not '}delivered (vector {max(row['vector'] or 0, 0):#04x})"
            flows = [] if accept is None else [accept << 16 | 1]
            self.sints[key] = {"ts_ns": row["ts_ns"], "name": name, "flows": flows, "track": track}

    def accept(self, vcpu: Any, row: dict[str, Any]) -> None:
        self.accepts[row["tid"], vcpu, row["vec"]] = row["seq"]
        self.last_raised[vcpu, row["vec"]] = row["seq"]
        self.vectors[vcpu, row["vec"]]["raised"].append(row["seq"])
        sender, unit = self.senders.get((row["tid"], row["vec"]), (None, -1))
        if sender is not None and len(self.units[sender]) - 1 == unit:
            self.mark(sender, row["seq"] << 16 | 1)

    def inject(self, vcpu: Any, row: dict[str, Any]) -> None:
        own = self.vectors[vcpu, row["vector"]]
        self.close(vcpu, row["vector"], None)
        own["open"] = row["ts_ns"], [seq << 16 | 1 for seq in own["raised"][:32]]
        own["raised"] = []

    def close(self, vcpu: Any, vector: int, end: int | None) -> None:
        if (is_open := self.vectors[vcpu, vector].pop("open", None)) is not None:
            name = f"vector {vector:#04x}"
            if end is not None and self.whole(is_open[0], end):
                for flow in is_open[1]:
                    self.mark(vcpu, flow)
            self.draw(self.track(vcpu, "Interrupts", name), is_open[0], end, name, is_open[1])

    def eoi(self, vcpu: Any, row: dict[str, Any]) -> None:
        self.close(vcpu, row["vector"], row["ts_ns"])

    def send(self, vcpu: Any, row: dict[str, Any]) -> None:
        if row["what"] == "kvm_hypercall" and row["nr"] != 10:
            return
        vector = row[{"kvm_apic_ipi": "icr_low", "kvm_hypercall": "a3"}.get(row["what"], "vector")]
        if vector is not None:
            self.senders[row["tid"], vector & 0xFF] = vcpu, len(self.units[vcpu]) - 1

    def flush(self, vcpu: Any, row: dict[str, Any]) -> None:
        if row["what"] == "kvm_hv_flush_tlb":
            mask = row["processor_mask"]
            everyone = bool((row["flags"] or 0) & 1) or mask == 0
        else:
            mask, everyone = 0, row["format"] == 1
        for target in sorted(self.vcpus):
            if target[0] == vcpu[0] and target != vcpu and (everyone or (mask or 0) >> target[1] & 1):
                flow = row["seq"] << 16 | 1 << 15 | target[1]
                self.mark(vcpu, flow)
                self.entering.append((target, row["seq"], flow))

    def sched(self, row: dict[str, Any]) -> None:
        if row["what"] == "sched_wakeup":
            changes = [(row["pid"], "runnable")]
        else:
            went = "preempted" if row["prev_state"] in (0, 0x100) else "sleeping"
            went = "exited" if row["prev_state"] in EXITED else went
            changes = [(row["prev_pid"], went), (row["next_pid"], "running")]
        for tid, name in changes:
            for first, last, vcpu in self.threads.get(tid, ()):
                if not first <= row["seq"] <= last:
                    continue
                was = self.states.get(vcpu)
                if name == "runnable" and (was is None or was[0] != "sleeping"):
                    continue
                if was is not None and was[0] != "exited":
                    self.draw(self.track(vcpu, "Host thread"), was[1], row["ts_ns"], was[0], [])
                self.states[vcpu] = name, row["ts_ns"], row

    def finish(self) -> None:
        for last in self.sints.values():
            self.draw(last["track"], last["ts_ns"], None, last["name"], last["flows"])
        for vcpu, vector in list(self.vectors):
            self.close(vcpu, vector, None)
        for (vcpu, _), timer in self.timers.items():
            if vcpu[0] in self.to_the_end and "open" in timer:
                where, start, name, flows = timer["open"]
                for on in where:
                    shown = "message pending" if "pending" in on[-1] else name
                    self.draw(on, start, self.last_ns, shown, flows, unfinished=True)
        for vcpu, (name, start, _) in self.states.items():
            if vcpu[0] in self.to_the_end and name != "exited":
                self.draw(self.track(vcpu, "Host thread"), start, self.last_ns, name, [], unfinished=True)
        for vcpu, number, place, flow in self.around:
            unit = self.units[vcpu][number]
            exits = [row for row in unit if row["what"] == "kvm_exit"]
            if place:
                self.on_state(vcpu, exits[0] if len(exits) == 1 else unit[place - 1], flow)
        for vcpu, seq, flow in self.entering:
            entries = (
                r for unit in self.units[vcpu] for r in unit if r["what"] == "kvm_entry" and r["seq"] > seq
            )
            self.on_state(vcpu, next(entries, None), flow)

    def on_state(self, vcpu: Any, state: dict[str, Any] | None, flow: int) -> None:
        if state is not None:
            self.found.flows[flow].append((self.track(vcpu), state["ts_ns"]))
