"""What advices ask of a recording, each question answered once."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock, RLock
from typing import Any, Generic, TypeVar

import polars as pl

from hvtrace.abi.exit_reasons import ISA_SVM, ISA_VMX
from hvtrace.analysis.advice.offered import Offered, offered_by_vm
from hvtrace.analysis.overview import overview
from hvtrace.analysis.pairs import WHOLE, Rows, key_of, pairs
from hvtrace.analysis.scope import Scope
from hvtrace.store import Store

__all__ = ["EXITS_OF", "KINDS", "KIND_BITS", "Facts", "about_of", "ends"]

#: Tracepoints that a kind of exit always leads to: (isa, exit_reason) of such exits. Where there are exits and none of
#: these, a table that is not there would be empty.
EXITS_OF: dict[str, frozenset[tuple[int, int]]] = {
    "kvm_pio": frozenset({(ISA_VMX, 30), (ISA_SVM, 0x7B)}),
    "kvm_msr": frozenset({(ISA_VMX, 31), (ISA_VMX, 32), (ISA_SVM, 0x7C)}),
    "kvm_cpuid": frozenset({(ISA_VMX, 10), (ISA_SVM, 0x72)}),
    "kvm_hv_hypercall": frozenset({(ISA_VMX, 18), (ISA_SVM, 0x81)}),
    "kvm_mmio": frozenset({(ISA_VMX, 44), (ISA_VMX, 48), (ISA_VMX, 49), (ISA_SVM, 0x400)}),
}

_WRITE = pl.col("write") != 0

#: What an exit was about, in the order of the numbers that stand for it: kind → rows that tell it, with their key.
#: Keys of msr, port and address: number * 2 + (1 for a write); of hypercall and cpuid: the code or leaf.
KINDS: dict[str, Rows] = {
    "msr": Rows("kvm_msr", key_of("ecx", _WRITE)),
    "port": Rows("kvm_pio", key_of("port", pl.col("rw") != 0)),
    "address": Rows("kvm_mmio", key_of("gpa", pl.col("type") == 2)),
    "hypercall": Rows("kvm_hv_hypercall", pl.col("code").cast(pl.UInt64)),
    "cpuid": Rows("kvm_cpuid", pl.col("function").cast(pl.UInt64)),
}

#: A physical address has at most 52 bits; its key one more.
KIND_BITS = 56


_T = TypeVar("_T")


class _Shared(Generic[_T]):
    """A fact that is made when it is first asked for, once, also where several threads ask."""

    def __init__(self, make: Callable[[Facts], _T]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __get__(self, facts: Facts, owner: type[Facts]) -> _T:
        return facts.once(self._make.__name__, lambda: self._make(facts))


def ends(rows: pl.DataFrame) -> tuple[int, int]:
    """The lowest first_seq and the highest last_seq of some rows; there is one at least."""
    return min(rows["first_seq"].to_list()), max(rows["last_seq"].to_list())


def about_of(kind: str, key: int) -> int:
    """What stands under `about` in Facts.handled for a key of a kind."""
    return [None, *KINDS].index(kind) << KIND_BITS | key


class Facts:
    """The part of a store that is asked about. Times in ns (or ticks: `in_ns` is false)."""

    def __init__(self, store: Store, scope: Scope) -> None:
        scope.check(store)
        self.store = store
        self.scope = scope
        self.in_ns = store.manifest.clock.get("unit", "ns") == "ns"
        #: Tables of that part, by tracepoint.
        self.tables = {name: rows.filter(True, *scope.span()) for name, rows in scope.tables(store).items()}
        self._kept: dict[str, Any] = {}
        self._making: dict[str, RLock] = {}
        self._lock = Lock()
        self.length_ns = scope.length_ns(store)
        self.vms: list[int] = [vm["vm"] for vm in store.manifest.vms if scope.vm in (None, vm["vm"])]

    def has(self, *tracepoints: str) -> bool:
        """Whether the store has rows of all of these."""
        return all(name in self.store.tracepoints for name in tracepoints)

    def recorded(self, *tracepoints: str) -> bool:
        """Whether all of these were recorded, as far as that shows: by their rows, or by exits none of which would
        have led to one.
        """
        return all(self.has(name) or self._would_be_empty(name) for name in tracepoints)

    def _would_be_empty(self, tracepoint: str) -> bool:
        reasons = EXITS_OF.get(tracepoint)
        return reasons is not None and bool(self._reasons) and not self._reasons & reasons

    @_Shared
    def _reasons(self) -> frozenset[tuple[int, int]]:
        """(isa, basic exit reason) of all exits of the store."""
        if not self.has("kvm_exit"):
            return frozenset()
        found = self.store.scan("kvm_exit").select("isa", "exit_reason").unique().collect()
        return frozenset(
            (isa, reason & 0xFFFF if isa == ISA_VMX else reason) for isa, reason in found.iter_rows()
        )

    @_Shared
    def handled(self) -> pl.DataFrame:
        """Exits one by one: vm, vcpu, tid, seq, ts_ns, end_seq, ns, userspace_ns, reason (isa << 32 | exit_reason),
        nested, about (number of the kind << KIND_BITS | its key; null).

        Of what stands in an exit's unit the first counts. Pairs in which events were lost, and those of no known VM,
        are left out. Empty where kvm_exit or kvm_entry were not recorded.
        """
        tables = self.scope.tables(self.store)
        if "kvm_exit" not in tables or "kvm_entry" not in tables:
            return pl.DataFrame(schema=_HANDLED)
        lost = self.store.scan("lost").collect() if self.store.has("lost") else None
        about = tuple(
            Rows(rows.table, rows.key + (number << KIND_BITS), rows.where)
            for number, rows in enumerate(KINDS.values(), 1)
        )
        found = (
            pairs(tables, "vmexit", lost, about)
            .filter(pl.col("state") == WHOLE, pl.col("vm").is_not_null(), *self.scope.span())
            .rename({"key": "reason"})
        )
        return found.select(_HANDLED.names()).collect()

    @_Shared
    def seconds(self) -> pl.DataFrame:
        """Exits by vm, vcpu, reason, nested, kind (of KINDS; null), key (of that kind; null), and `second`: how many
        whole seconds (10^9 ticks) after the store's first event they were → count, time_ns, userspace_ns, first_seq,
        last_seq.
        """
        start = self.store.manifest.time.get("first_ns") or 0
        by = ("vm", "vcpu", "reason", "nested", "about", "second")
        found = (
            self.handled.lazy()
            .group_by(*by[:-1], second=(pl.col("ts_ns") - start) // 1_000_000_000)
            .agg(
                count=pl.len().cast(pl.Int64),
                time_ns=pl.col("ns").sum(),
                userspace_ns=pl.col("userspace_ns").sum(),
                first_seq=pl.col("seq").min(),
                last_seq=pl.col("seq").max(),
            )
            .sort(by)
            .with_columns(
                kind=(pl.col("about") // (1 << KIND_BITS)).replace_strict(
                    dict(enumerate(KINDS, 1)), return_dtype=pl.String
                ),
                key=pl.col("about") % (1 << KIND_BITS),
            )
        )
        return found.select(_SECONDS.names()).cast(_SECONDS).collect()

    @_Shared
    def exits(self) -> pl.DataFrame:
        """Exits as in `seconds`, but of all the time together."""
        by = ("vm", "vcpu", "reason", "nested", "kind", "key")
        return (
            self.seconds.lazy()
            .group_by(by, maintain_order=True)
            .agg(
                pl.col("count", "time_ns", "userspace_ns").sum(),
                pl.col("first_seq").min(),
                pl.col("last_seq").max(),
            )
            .collect()
        )

    @_Shared
    def _lives(self) -> dict[int, tuple[int, int, int]]:
        """VM → when its first exit began and the last one ended, and the number of vCPUs that had one."""
        rows = self.handled.group_by("vm").agg(
            first=pl.col("ts_ns").min(),
            last=(pl.col("ts_ns") + pl.col("ns")).max(),
            vcpus=pl.col("vcpu").n_unique(),
        )
        return {vm: (first, last, vcpus) for vm, first, last, vcpus in rows.iter_rows()}

    def life(self, vm: int) -> tuple[int, int] | None:
        """When a VM's first exit began, and its last one ended; None where it has none."""
        found = self._lives.get(vm)
        return None if found is None else found[:2]

    def life_ns(self, vm: int) -> int:
        """How long that was; at least 1."""
        first, last, _ = self._lives.get(vm, (0, 0, 0))
        return max(last - first, 1)

    def vcpu_ns(self, vm: int) -> int:
        """Time that all vCPUs of a VM had in that time together; at least 1."""
        return self.life_ns(vm) * self._lives.get(vm, (0, 0, 1))[2]

    def per_second(self, count: int) -> float | None:
        """Rate of something counted; None where the clock counts ticks or no time passed."""
        return count * 1e9 / self.length_ns if self.in_ns and self.length_ns else None

    @_Shared
    def overview(self) -> dict[int, dict[str, Any]]:
        """VM → its part of hvtrace.analysis.overview: enlightenments offered and used, vCPUs. Of the whole store."""
        return {vm["vm"]: vm for vm in overview(self.store)["vms"]}

    @_Shared
    def offered(self) -> dict[int, Offered]:
        """VM → what its guest was offered and took up. Of the whole store: CPUID is read at boot."""
        return offered_by_vm(self.store, self.vms)

    @_Shared
    def used(self) -> dict[int, tuple[frozenset[int], frozenset[int]]]:
        """VM → MSRs that its guest accessed without a fault, and codes of Hyper-V hypercalls it made; in the whole
        store.
        """
        found: dict[int, tuple[set[int], set[int]]] = {vm: (set(), set()) for vm in self.vms}
        sources = (
            ("kvm_msr", "ecx", pl.col("exception") == 0),
            ("kvm_hv_hypercall", "code", pl.lit(value=True)),
        )
        for place, (table, column, wanted) in enumerate(sources):
            if self.has(table):
                rows = self.store.scan(table).filter(wanted).select("vm", column).unique().collect()
                for vm, value in rows.iter_rows():
                    if vm in found:
                        found[vm][place].add(value)
        return {vm: (frozenset(msrs), frozenset(calls)) for vm, (msrs, calls) in found.items()}

    def once(self, name: str, make: Callable[[], _T]) -> _T:
        """What `make` gives, made at the first call of that name: for what an advice needs of all VMs."""
        with self._lock:
            making = self._making.setdefault(name, RLock())
        with making:
            if name not in self._kept:
                self._kept[name] = make()
        kept: _T = self._kept[name]
        return kept

    def counts(self, table: str, *keys: str) -> pl.DataFrame:
        """Rows of a tracepoint by vm, vcpu and `keys`: count, first_seq. Empty where the store does not have it.

        Of all VMs, and made once: a recording may have dozens.
        """
        if table not in self.tables:
            return pl.DataFrame(
                schema={
                    "vm": pl.UInt16,
                    "vcpu": pl.UInt16,
                    **dict.fromkeys(keys, pl.Int64),
                    "count": pl.Int64,
                    "first_seq": pl.UInt64,
                }
            )
        by = ("vm", "vcpu", *keys)

        def made() -> pl.DataFrame:
            rows = self.tables[table].filter(pl.col("vm").is_not_null())
            figures = {"count": pl.len().cast(pl.Int64), "first_seq": pl.col("seq").min()}
            return rows.group_by(by).agg(**figures).sort(by).collect()

        return self.once(" ".join(("counts of", table, *keys)), made)


_HANDLED = pl.Schema(
    {
        "vm": pl.UInt16,
        "vcpu": pl.UInt16,
        "tid": pl.Int32,
        "seq": pl.UInt64,
        "ts_ns": pl.Int64,
        "end_seq": pl.UInt64,
        "ns": pl.Int64,
        "userspace_ns": pl.Int64,
        "reason": pl.UInt64,
        "nested": pl.Boolean,
        "about": pl.UInt64,
    }
)

_SECONDS = pl.Schema(
    {
        "vm": pl.UInt16,
        "vcpu": pl.UInt16,
        "reason": pl.UInt64,
        "nested": pl.Boolean,
        "kind": pl.String,
        "key": pl.UInt64,
        "second": pl.Int64,
        "count": pl.Int64,
        "time_ns": pl.Int64,
        "userspace_ns": pl.Int64,
        "first_seq": pl.UInt64,
        "last_seq": pl.UInt64,
    }
)
