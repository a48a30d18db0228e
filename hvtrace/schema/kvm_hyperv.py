"""Tracepoints of the Hyper-V enlightenments (arch/x86/kvm/trace.h)."""

from __future__ import annotations

from hvtrace.schema.tracepoint import Context, Field, Named, Tracepoint

__all__ = ["KVM_HYPERV"]

_VCPU_ID = Field("vcpu_id", "s32", "vCPU id as userspace gave it (not the VP index).")
_SINT = Field("sint", "u32", "Synthetic interrupt source, 0 to 15.")
_TIMER = Field("timer_index", "s32", "Synthetic timer, 0 to 3.")
_HOST = Field("host", "bool", "Written by userspace (true) or by the guest.")
_TIMER_LAYOUT = ("vcpu_id {vcpu_id:d} timer {timer_index:d}",)
_FLUSH_SPACE = Field("address_space", "u64", "Address space to flush (CR3).")
_FLUSH_FLAGS = Field("flags", "u64", "Flags of the flush.")
_FLUSH_L2 = Field("guest_mode", "bool", "Called by a nested guest.")

KVM_HYPERV: tuple[Tracepoint, ...] = (
    Tracepoint(
        "kvm",
        "kvm_hv_hypercall",
        "A Hyper-V hypercall begins.",
        fields=(
            Field("rep_cnt", "u16", "Number of list elements."),
            Field("rep_idx", "u16", "First list element to do."),
            Field("ingpa", "u64", "Input: guest physical address, or the first register of a fast call."),
            Field("outgpa", "u64", "Output: guest physical address, or the second register of a fast call."),
            Field("code", "u16", "Call code."),
            Field("var_cnt", "u16", "Size of the variable header in 8-byte units."),
            Field("fast", "bool", "Input in registers."),
        ),
        context=Context.VCPU,
        names=(Named("code_name", "code", "hv_hypercall", "Name of the hypercall."),),
        layouts=(
            "code 0x{code:x} {fast:fast=1|slow=0} var_cnt 0x{var_cnt:x} rep_cnt 0x{rep_cnt:x}"
            " idx 0x{rep_idx:x} in 0x{ingpa:x} out 0x{outgpa:x}",
            "code 0x{code:x} {fast:fast=1|slow=0} cnt 0x{rep_cnt:x} idx 0x{rep_idx:x}"
            " in 0x{ingpa:x} out 0x{outgpa:x}",
        ),
    ),
    Tracepoint(
        "kvm",
        "kvm_hv_hypercall_done",
        "A Hyper-V hypercall ends.",
        fields=(Field("result", "u64", "Result value: status in bits 15:0, elements done in bits 43:32."),),
        context=Context.VCPU,
        layouts=("result 0x{result:x}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_hv_notify_acked_sint",
        "A synthetic interrupt source was acknowledged, by EOI or by a write of EOM.",
        fields=(_VCPU_ID, _SINT),
        context=Context.NAMED,
        vcpu_field="vcpu_id",
        layouts=("vcpu_id {vcpu_id:d} sint {sint:u}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_hv_synic_set_irq",
        "A synthetic interrupt is raised.",
        fields=(
            _VCPU_ID,
            _SINT,
            Field("vector", "s32", "Vector of the source."),
            Field("ret", "s32", "1 or more delivered, 0 coalesced, negative: error number."),
        ),
        context=Context.NAMED,
        vcpu_field="vcpu_id",
        layouts=("vcpu_id {vcpu_id:d} sint {sint:u} vector {vector:d} ret {ret:d}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_hv_synic_send_eoi",
        "An EOI of a synthetic interrupt's vector.",
        fields=(
            _VCPU_ID,
            Field("sint", "u32", "Not set by the kernel: no meaning; null where the recording is text."),
            Field("vector", "s32", "Vector finished."),
            Field("ret", "s32", "Not set by the kernel: no meaning; null where the recording is text."),
        ),
        context=Context.VCPU,
        vcpu_field="vcpu_id",
        layouts=("vcpu_id {vcpu_id:d} vector {vector:d}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_hv_synic_set_msr",
        "A SynIC MSR is written; traced before the value is checked.",
        fields=(
            _VCPU_ID,
            Field("msr", "u32", "MSR index."),
            Field("data", "u64", "Value written."),
            _HOST,
        ),
        context=Context.NAMED,
        vcpu_field="vcpu_id",
        names=(Named("msr_name", "msr", "msr", "Name of the MSR."),),
        layouts=("vcpu_id {vcpu_id:d} msr 0x{msr:x} data 0x{data:x} host {host:d}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_hv_stimer_set_config",
        "A synthetic timer's configuration is written; the value as written.",
        fields=(_VCPU_ID, _TIMER, Field("config", "u64", "Value written."), _HOST),
        context=Context.NAMED,
        vcpu_field="vcpu_id",
        layouts=("vcpu_id {vcpu_id:d} timer {timer_index:d} config 0x{config:x} host {host:d}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_hv_stimer_set_count",
        "A synthetic timer's count is written.",
        fields=(_VCPU_ID, _TIMER, Field("count", "u64", "Value written, in 100 ns."), _HOST),
        context=Context.NAMED,
        vcpu_field="vcpu_id",
        layouts=("vcpu_id {vcpu_id:d} timer {timer_index:d} count {count:u} host {host:d}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_hv_stimer_start_periodic",
        "A periodic synthetic timer is armed.",
        fields=(
            _VCPU_ID,
            _TIMER,
            Field("time_now", "u64", "Reference time then, in 100 ns."),
            Field("exp_time", "u64", "Reference time of the next expiry, in 100 ns."),
        ),
        context=Context.VCPU,
        vcpu_field="vcpu_id",
        layouts=("vcpu_id {vcpu_id:d} timer {timer_index:d} time_now {time_now:u} exp_time {exp_time:u}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_hv_stimer_start_one_shot",
        "A one-shot synthetic timer is armed.",
        fields=(
            _VCPU_ID,
            _TIMER,
            Field("time_now", "u64", "Reference time then, in 100 ns."),
            Field("count", "u64", "Reference time of the expiry, in 100 ns."),
        ),
        context=Context.VCPU,
        vcpu_field="vcpu_id",
        layouts=("vcpu_id {vcpu_id:d} timer {timer_index:d} time_now {time_now:u} count {count:u}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_hv_stimer_callback",
        "The host timer behind a synthetic timer fired (in a hard interrupt).",
        fields=(_VCPU_ID, _TIMER),
        context=Context.NAMED,
        vcpu_field="vcpu_id",
        layouts=_TIMER_LAYOUT,
    ),
    Tracepoint(
        "kvm",
        "kvm_hv_stimer_expiration",
        "A synthetic timer expired: its message or interrupt was sent, or failed to be.",
        fields=(
            _VCPU_ID,
            _TIMER,
            Field("direct", "s32", "1 direct mode (interrupt), 0 message."),
            Field("msg_send_result", "s32", "0 sent, negative: error number."),
        ),
        context=Context.VCPU,
        vcpu_field="vcpu_id",
        layouts=(
            "vcpu_id {vcpu_id:d} timer {timer_index:d} direct {direct:d} send result {msg_send_result:d}",
        ),
    ),
    Tracepoint(
        "kvm",
        "kvm_hv_stimer_cleanup",
        "The host timer behind a synthetic timer is cancelled.",
        fields=(_VCPU_ID, _TIMER),
        context=Context.NAMED,
        vcpu_field="vcpu_id",
        layouts=_TIMER_LAYOUT,
    ),
    *(
        Tracepoint(
            "kvm",
            f"kvm_hv_syndbg_{access}_msr",
            f"A synthetic debugger MSR is {done}.",
            fields=(
                _VCPU_ID,
                Field("vp_index", "u32", "VP index of the vCPU."),
                Field("msr", "u32", "MSR index."),
                Field("data", "u64", "Value."),
            ),
            context=Context.NAMED,
            vcpu_field="vcpu_id",
            names=(Named("msr_name", "msr", "msr", "Name of the MSR."),),
            layouts=("vcpu_id {vcpu_id:d} vp_index {vp_index:u} msr 0x{msr:x} data 0x{data:x}",),
        )
        for access, done in (("set", "written"), ("get", "read"))
    ),
    Tracepoint(
        "kvm",
        "kvm_hv_flush_tlb",
        "A hypercall asks for a flush of translations; traced before it is checked.",
        fields=(
            Field("processor_mask", "u64", "VP indices concerned, one bit each."),
            _FLUSH_SPACE,
            _FLUSH_FLAGS,
            _FLUSH_L2,
        ),
        context=Context.VCPU,
        # Where the record has guest_mode, a blank always follows the flags.
        layouts=(
            "processor_mask 0x{processor_mask:x} address_space 0x{address_space:x} flags 0x{flags:x}"
            " {guest_mode?(L2)}",
            "processor_mask 0x{processor_mask:x} address_space 0x{address_space:x} flags 0x{flags:x}",
        ),
    ),
    Tracepoint(
        "kvm",
        "kvm_hv_flush_tlb_ex",
        "A hypercall with a sparse VP set asks for a flush of translations; traced before it is checked.",
        fields=(
            Field("valid_bank_mask", "u64", "Banks of the VP set that are given, one bit each."),
            Field("format", "u64", "0 sparse set, 1 all VPs."),
            _FLUSH_SPACE,
            _FLUSH_FLAGS,
            _FLUSH_L2,
        ),
        context=Context.VCPU,
        layouts=(
            "valid_bank_mask 0x{valid_bank_mask:x} format 0x{format:x} address_space 0x{address_space:x}"
            " flags 0x{flags:x} {guest_mode?(L2)}",
            "valid_bank_mask 0x{valid_bank_mask:x} format 0x{format:x} address_space 0x{address_space:x}"
            " flags 0x{flags:x}",
        ),
    ),
    Tracepoint(
        "kvm",
        "kvm_hv_send_ipi",
        "A hypercall asks for interrupts to other VPs; traced before it is checked.",
        fields=(
            Field("vector", "u32", "Vector."),
            Field("processor_mask", "u64", "VP indices concerned, one bit each."),
        ),
        context=Context.VCPU,
        layouts=("vector {vector:x} processor_mask 0x{processor_mask:x}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_hv_send_ipi_ex",
        "A hypercall with a sparse VP set asks for interrupts to other VPs; traced before it is checked.",
        fields=(
            Field("vector", "u32", "Vector."),
            Field("format", "u64", "0 sparse set, 1 all VPs."),
            Field("valid_bank_mask", "u64", "Banks of the VP set that are given, one bit each."),
        ),
        context=Context.VCPU,
        layouts=("vector {vector:x} format {format:x} valid_bank_mask 0x{valid_bank_mask:x}",),
    ),
)
