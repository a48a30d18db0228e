"""Tracepoints of clocks, halt polling and paravirtual services (trace.h of arch/x86/kvm, events/kvm.h)."""

from __future__ import annotations

from hvtrace.schema.tracepoint import Context, Field, Tracepoint

__all__ = ["KVM_CLOCK"]

_VCPU_ID = Field("vcpu_id", "u32", "vCPU id as userspace gave it.")
_HOST_CLOCK = Field("host_clock", "u32", "Clock source of the host as the vDSO sees it: 0 none, 1 TSC.")
_GVA = Field("gva", "u64", "Guest virtual address.")
_GFN = Field("gfn", "u64", "Guest page frame.")
_TOKEN_FIELDS = (Field("token", "u64", "Token of the asynchronous page fault."), _GVA)
_TOKEN_LAYOUT = ("token {token:X} gva {gva:X}",)
_GVA_GFN_LAYOUT = ("gva = {gva:X}, gfn = {gfn:X}",)

KVM_CLOCK: tuple[Tracepoint, ...] = (
    Tracepoint(
        "kvm",
        "kvm_update_master_clock",
        "The VM's master clock is taken anew.",
        fields=(
            Field("use_master_clock", "bool", "The master clock is in use."),
            _HOST_CLOCK,
            Field("offset_matched", "bool", "All vCPUs have the same TSC offset."),
        ),
        layouts=(
            "masterclock {use_master_clock:d} hostclock {host_clock:none=0|tsc=1}"
            " offsetmatched {offset_matched:u}",
        ),
    ),
    Tracepoint(
        "kvm",
        "kvm_track_tsc",
        "The TSC offset of a vCPU was set and is compared with the others.",
        fields=(
            _VCPU_ID,
            Field("nr_vcpus_matched_tsc", "u32", "vCPUs with the same offset, less one."),
            Field("online_vcpus", "u32", "vCPUs the VM has then."),
            Field("use_master_clock", "bool", "The master clock is in use."),
            _HOST_CLOCK,
        ),
        context=Context.NAMED,
        vcpu_field="vcpu_id",
        layouts=(
            "vcpu_id {vcpu_id:u} masterclock {use_master_clock:u} offsetmatched {nr_vcpus_matched_tsc:u}"
            " nr_online {online_vcpus:u} hostclock {host_clock:none=0|tsc=1}",
        ),
    ),
    Tracepoint(
        "kvm",
        "kvm_pvclock_update",
        "The vCPU's kvmclock page is written.",
        fields=(
            _VCPU_ID,
            Field("version", "u32", "Version of the page; odd while it is written."),
            Field("tsc_timestamp", "u64", "Guest TSC at the update."),
            Field("system_time", "u64", "kvmclock time at the update in ns."),
            Field("tsc_to_system_mul", "u32", "Multiplier from TSC to ns, as a 32-bit fraction."),
            Field("tsc_shift", "s8", "Shift applied to the TSC before the multiplication."),
            Field("flags", "u8", "Flags of the page."),
        ),
        context=Context.VCPU,
        vcpu_field="vcpu_id",
        layouts=(
            r"vcpu_id {vcpu_id:u}, pvclock \{ version {version:u}, tsc_timestamp 0x{tsc_timestamp:x},"
            r" system_time 0x{system_time:x}, tsc_to_system_mul 0x{tsc_to_system_mul:x},"
            r" tsc_shift {tsc_shift:d}, flags 0x{flags:x} \}",
        ),
    ),
    Tracepoint(
        "kvm",
        "kvm_write_tsc_offset",
        "The vCPU's TSC offset is written.",
        fields=(
            _VCPU_ID,
            Field("previous_tsc_offset", "u64", "Offset before, in cycles modulo 2^64."),
            Field("next_tsc_offset", "u64", "Offset now, in cycles modulo 2^64."),
        ),
        context=Context.NAMED,
        vcpu_field="vcpu_id",
        layouts=("vcpu={vcpu_id:u} prev={previous_tsc_offset:u} next={next_tsc_offset:u}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_halt_poll_ns",
        "The vCPU's halt-polling time changes.",
        fields=(
            Field("grow", "bool", "Grown (true) or shrunk."),
            _VCPU_ID,
            Field("new", "u32", "Polling time now in ns."),
            Field("old", "u32", "Polling time before in ns."),
        ),
        context=Context.VCPU,
        vcpu_field="vcpu_id",
        layouts=("vcpu {vcpu_id:u}: halt_poll_ns {new:u} ({grow:grow=1|shrink=0} {old:u})",),
    ),
    Tracepoint(
        "kvm",
        "kvm_vcpu_wakeup",
        "The vCPU's halt ends.",
        fields=(
            Field("ns", "u64", "Time halted in ns."),
            Field("waited", "bool", "The thread slept (true), or found work while polling."),
            Field("valid", "bool", "The halt counts for the growth of the polling time."),
        ),
        context=Context.VCPU,
        layouts=("{waited:wait=1|poll=0} time {ns:d} ns[, polling {valid:valid=1|invalid=0}]",),
    ),
    Tracepoint(
        "kvm",
        "kvm_pv_tlb_flush",
        "A vCPU runs again after a preemption and is told whether to flush its translations.",
        fields=(_VCPU_ID, Field("need_flush_tlb", "bool", "A flush was asked for meanwhile.")),
        context=Context.VCPU,
        vcpu_field="vcpu_id",
        layouts=("vcpu {vcpu_id:u} need_flush_tlb {need_flush_tlb:true=1|false=0}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_try_async_get_page",
        "A page is to be fetched asynchronously.",
        fields=(_GVA, _GFN),
        context=Context.VCPU,
        layouts=_GVA_GFN_LAYOUT,
    ),
    Tracepoint(
        "kvm",
        "kvm_async_pf_repeated_fault",
        "A page that is being fetched faults again.",
        fields=(_GVA, _GFN),
        context=Context.VCPU,
        older=("kvm_async_pf_doublefault",),
        layouts=_GVA_GFN_LAYOUT,
    ),
    Tracepoint(
        "kvm",
        "kvm_async_pf_not_present",
        "The guest is told that a page is not present.",
        fields=_TOKEN_FIELDS,
        context=Context.VCPU,
        layouts=_TOKEN_LAYOUT,
    ),
    Tracepoint(
        "kvm",
        "kvm_async_pf_ready",
        "The guest is told that a page is ready.",
        fields=_TOKEN_FIELDS,
        context=Context.VCPU,
        layouts=_TOKEN_LAYOUT,
    ),
    Tracepoint(
        "kvm",
        "kvm_async_pf_completed",
        "A worker has fetched a page.",
        fields=(Field("address", "u64", "Host virtual address."), _GVA),
        layouts=("gva {gva:X} address {address:X}",),
    ),
)
