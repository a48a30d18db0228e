"""What KVM did about an access: the events of the same exit, found by thread."""

from __future__ import annotations

import polars as pl

from hvtrace.store import Store

__all__ = ["with_effects"]

#: vCPUs that have a bit in a mask of processors.
_BITS = 64


def with_effects(store: Store, tracepoint: str, shared: set[str]) -> pl.LazyFrame:
    """Rows of a tracepoint in order, with what KVM did about each as far as tracepoints of `shared` tell it.

    kvm_msr gets `eois` and `acks`: how many kvm_eoi and kvm_hv_notify_acked_sint its thread traced since the entry or
    the access before. kvm_hv_hypercall_done gets `code` and `fast` of its hypercall, and `misdirected`: whether the
    vCPUs that accepted the interrupt of a kvm_hv_send_ipi are others than asked for. kvm_hv_stimer_start_periodic gets
    `period`, and `astray`: whether it expires at no multiple of it after the time before. Null where it is not known.
    """
    if tracepoint == "kvm_msr":
        return _msr(store, shared)
    if tracepoint == "kvm_hv_hypercall_done":
        return _hypercalls(store, shared)
    if tracepoint == "kvm_hv_stimer_start_periodic":
        return _periods(store, shared)
    return store.scan(tracepoint).sort("seq")


def _rows(store: Store, table: str, mark: int, **columns: pl.Expr) -> pl.LazyFrame:
    return store.scan(table).select("seq", "tid", mark=pl.lit(mark, pl.UInt8), **columns)


def _msr(store: Store, shared: set[str]) -> pl.LazyFrame:
    own = store.scan("kvm_msr").sort("seq")
    effects = {"eois": "kvm_eoi", "acks": "kvm_hv_notify_acked_sint"}
    known = {name: mark for mark, (name, table) in enumerate(effects.items(), 2) if table in shared}
    if "kvm_entry" not in shared or not known:
        return own.with_columns(eois=pl.lit(None, pl.UInt32), acks=pl.lit(None, pl.UInt32))
    parts = [_rows(store, "kvm_msr", 0), _rows(store, "kvm_entry", 1)]
    parts += [_rows(store, effects[name], mark) for name, mark in known.items() if store.has(effects[name])]
    limit = pl.col("mark") < 2
    counts = {name: (pl.col("mark") == mark).cum_sum() for name, mark in known.items()}
    found = (
        pl.concat(parts)
        .sort("tid", "seq")
        .with_columns(**counts)
        .filter(limit)
        # Since the row before, which ended another unit; a thread's first one has none.
        .with_columns(
            pl.when(pl.col("tid") == pl.col("tid").shift(1))
            .then(pl.col(name) - pl.col(name).shift(1))
            .alias(name)
            for name in known
        )
        .filter(pl.col("mark") == 0)
        .select("seq", *known)
    )
    joined = own.join(found, on="seq", how="left", maintain_order="left")
    return joined.with_columns(pl.lit(None, pl.UInt32).alias(name) for name in effects if name not in known)


def _hypercalls(store: Store, shared: set[str]) -> pl.LazyFrame:
    own = store.scan("kvm_hv_hypercall_done").sort("seq")
    if not store.has("kvm_hv_hypercall"):
        nothing = {"code": pl.UInt16, "fast": pl.Boolean, "misdirected": pl.Boolean}
        return own.with_columns(pl.lit(None, dtype).alias(name) for name, dtype in nothing.items()).filter(
            False
        )
    parts = [
        _rows(store, "kvm_hv_hypercall", 0, code=pl.col("code"), fast=pl.col("fast")),
        _rows(store, "kvm_hv_hypercall_done", 1),
    ]
    asked = {"kvm_hv_send_ipi", "kvm_apic_accept_irq"} <= shared and store.has("kvm_hv_send_ipi")
    if asked:
        parts.append(
            _rows(store, "kvm_hv_send_ipi", 2, vector=pl.col("vector"), mask=pl.col("processor_mask"))
        )
        if store.has("kvm_apic_accept_irq"):
            bits = [1 << vcpu for vcpu in range(_BITS)]
            bit = pl.col("vcpu").replace_strict(range(_BITS), bits, default=None, return_dtype=pl.UInt64)
            accepted = _rows(store, "kvm_apic_accept_irq", 3, vec=pl.col("vec").cast(pl.UInt32), bit=bit)
            parts.append(accepted)
    mark = pl.col("mark")
    done = pl.col("seq").filter(mark == 1).first()
    wanted = {
        "done": done,
        "code": pl.col("code").filter(mark == 0).first(),
        "fast": pl.col("fast").filter(mark == 0).first(),
        "misdirected": pl.lit(None, pl.Boolean),
    }
    if asked:
        vector, mask = pl.col("vector").drop_nulls().first(), pl.col("mask").drop_nulls().first()
        took = (mark == 3) & (pl.col("vec") == vector) & (pl.col("seq") < done)
        wanted["misdirected"] = (
            pl.col("bit").filter(took).unique().sum() != mask
            if store.has("kvm_apic_accept_irq")
            else mask != 0
        )
    found = (
        pl.concat(parts, how="diagonal")
        .sort("tid", "seq")
        .group_by("tid", unit=(mark == 0).cum_sum())
        .agg(**wanted)
        .filter(pl.col("done").is_not_null(), pl.col("code").is_not_null())
        .select("code", "fast", "misdirected", seq="done")
    )
    return own.join(found, on="seq", maintain_order="left")


def _periods(store: Store, shared: set[str]) -> pl.LazyFrame:
    """Starts of periodic timers. Whatever is set anew in between begins a new count."""
    own = store.scan("kvm_hv_stimer_start_periodic").sort("seq")
    if "kvm_hv_stimer_set_count" not in shared or not store.has("kvm_hv_stimer_set_count"):
        return own.with_columns(period=pl.lit(None, pl.UInt64), astray=pl.lit(None, pl.Boolean))
    timer = ["vm", "vcpu", "timer_index"]
    parts = [own.select("seq", *timer, "exp_time", set=pl.lit(value=False))]
    for table, period in (("kvm_hv_stimer_set_count", "count"), ("kvm_hv_stimer_set_config", None)):
        if store.has(table):
            column = pl.lit(None, pl.UInt64) if period is None else pl.col(period)
            parts.append(store.scan(table).select("seq", *timer, period=column, set=pl.lit(value=True)))
    again = ~pl.col("set") & ~pl.col("set").shift(1)
    before = pl.col("exp_time").shift(1)
    found = (
        pl.concat(parts, how="diagonal")
        .sort(*timer, "seq")
        .with_columns(pl.col("period").forward_fill().over(timer))
        .with_columns(
            astray=pl.when(again.over(timer) & (pl.col("period") > 0)).then(
                (pl.col("exp_time") - before.over(timer)) % pl.col("period") != 0
            )
        )
        .filter(~pl.col("set"))
        .select("seq", "period", "astray")
    )
    return own.join(found, on="seq", how="left", maintain_order="left")
