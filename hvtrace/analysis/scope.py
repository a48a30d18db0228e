"""Which part of a recording is asked about: a VM, vCPUs, a span of time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

from hvtrace.errors import InputError
from hvtrace.store import Store

__all__ = ["Scope"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """`vm` restricts to a VM, `vcpu` to vCPUs with that id, `first_ns` and `last_ns` to events in that span."""

    vm: int | None = None
    vcpu: int | None = None
    first_ns: int | None = None
    last_ns: int | None = None

    def check(self, store: Store) -> None:
        """Refuse a VM or vCPU that the store does not have. Raises InputError."""
        vcpus = {vm["vm"]: {vcpu["vcpu"] for vcpu in vm["vcpus"]} for vm in store.manifest.vms}
        if self.vm is not None and self.vm not in vcpus:
            raise InputError(store.path, f"has no VM {self.vm}; it has {_listed(vcpus)}")
        chosen = set().union(*(own for vm, own in vcpus.items() if self.vm in (None, vm)))
        if self.vcpu is not None and self.vcpu not in chosen:
            raise InputError(store.path, f"has no vCPU {self.vcpu}; it has {_listed(chosen)}")

    def owners(self, vm: str = "vm", vcpu: str = "vcpu") -> list[pl.Expr]:
        """Conditions for a row to be of the VM and vCPU asked for."""
        chosen = [] if self.vm is None else [pl.col(vm) == self.vm]
        return chosen if self.vcpu is None else [*chosen, pl.col(vcpu) == self.vcpu]

    def span(self, ts: pl.Expr | None = None) -> list[pl.Expr]:
        """Conditions for a time stamp (that of the row) to lie in the span asked for."""
        ts = pl.col("ts_ns") if ts is None else ts
        within = [] if self.first_ns is None else [ts >= self.first_ns]
        return within if self.last_ns is None else [*within, ts <= self.last_ns]

    def tables(self, store: Store) -> dict[str, pl.LazyFrame]:
        """All tracepoints' tables, with the rows of the VM and vCPU asked for, at any time.

        Pairs are made before the span is cut out, so that those which reach over its edge stay whole.
        """
        return {name: store.scan(name).filter(True, *self.owners()) for name in store.tracepoints}

    def length_ns(self, store: Store) -> int:
        """How long the part asked for is."""
        time = store.manifest.time
        first, last = time.get("first_ns") or 0, time.get("last_ns") or 0
        start = first if self.first_ns is None else max(first, self.first_ns)
        end = last if self.last_ns is None else min(last, self.last_ns)
        return max(end - start, 0)


def _listed(numbers: Iterable[int]) -> str:
    several = sorted(numbers)
    return ", ".join(map(str, several[:20])) + (" …" if len(several) > 20 else "") or "none"
