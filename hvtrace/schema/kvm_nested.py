"""Tracepoints of nested virtualization (arch/x86/kvm/trace.h)."""

from __future__ import annotations

from hvtrace.schema.kvm_core import EXIT_FIELDS
from hvtrace.schema.tracepoint import Context, Field, Named, Tracepoint

__all__ = ["KVM_NESTED"]

_REASON_NAME = "Name of the exit reason, by `isa`."
#: Text of the reason with its labels before 5.10, and of kvm_nested_vmexit_inject ever since.
_LABELLED = " ext_inf1: 0x{%s:x} ext_inf2: 0x{%s:x} ext_int: 0x{%s:x} ext_int_err: 0x{%s:x}"

KVM_NESTED: tuple[Tracepoint, ...] = (
    Tracepoint(
        "kvm",
        "kvm_nested_vmenter",
        "L1 enters L2.",
        fields=(
            Field("rip", "u64", "Instruction pointer of L1."),
            Field("vmcb", "u64", "Guest physical address of L1's VMCS or VMCB."),
            Field("nested_rip", "u64", "Instruction pointer of L2."),
            Field("int_ctl", "u32", "SVM interrupt control; 0 on VMX."),
            Field("event_inj", "u32", "Event to inject."),
            Field("tdp_enabled", "bool", "L1 uses nested paging.", older=("npt",)),
            Field("guest_pgd", "u64", "Page table root: nested where `tdp_enabled`, else L2's CR3."),
            Field("isa", "u32", "1 VMX, 2 SVM."),
        ),
        context=Context.VCPU,
        older=("kvm_nested_vmrun",),
        layouts=(
            "rip: 0x{rip:x} {isa:vmcs=1|vmcb=2}: 0x{vmcb:x} nested_rip: 0x{nested_rip:x}"
            " int_ctl: 0x{int_ctl:x} event_inj: 0x{event_inj:x} nested_{-:ept=1|npt=2}={tdp_enabled:y=1|n=0}"
            " {-:guest_cr3=0|nested_eptp=1|nested_cr3=2}: 0x{guest_pgd:x}",
            "rip: 0x{rip:x} vmcb: 0x{vmcb:x} nrip: 0x{nested_rip:x} int_ctl: 0x{int_ctl:x}"
            " event_inj: 0x{event_inj:x} npt: {tdp_enabled:on=1|off=0}{isa=2}",
        ),
    ),
    Tracepoint(
        "kvm",
        "kvm_nested_vmexit",
        "An exit of L2 is looked at for L1.",
        fields=EXIT_FIELDS,
        context=Context.VCPU,
        vcpu_field="vcpu_id",
        names=(Named("exit_reason_name", "exit_reason", "exit_reason", _REASON_NAME),),
        layouts=(
            "vcpu {vcpu_id:u} reason {exit_reason,isa:@exit_reason} rip 0x{guest_rip:x} info1 0x{info1:x}"
            " info2 0x{info2:x} intr_info 0x{intr_info:x} error_code 0x{error_code:x}"
            "[ requests 0x{requests:x}]",
            # libtraceevent's kvm plugin looks for the field's older name in vain.
            "<CANT FIND FIELD rip>vcpu {vcpu_id:u} reason {exit_reason,isa:@exit_reason} rip 0x{guest_rip:x}"
            " info1 0x{info1:x} info2 0x{info2:x} intr_info 0x{intr_info:x} error_code 0x{error_code:x}"
            "[ requests 0x{requests:x}]",
            "rip: 0x{guest_rip:x} reason: {exit_reason,isa:@exit_reason}"
            + _LABELLED % ("info1", "info2", "intr_info", "error_code"),
            "rip {guest_rip:x} reason {exit_reason,isa:@exit_reason} info1 {info1:x} info2 {info2:x}"
            " int_info {intr_info:x} int_info_err {error_code:x}",
        ),
    ),
    Tracepoint(
        "kvm",
        "kvm_nested_vmexit_inject",
        "An exit of L2 is forwarded to L1.",
        fields=(
            Field("exit_code", "u32", "Exit reason: VMX reason with its flag bits, or SVM exit code."),
            Field("exit_info1", "u64", "VMX exit qualification; SVM EXITINFO1."),
            Field("exit_info2", "u64", "VMX IDT-vectoring information; SVM EXITINFO2."),
            Field("exit_int_info", "u32", "Interruption information of the exit."),
            Field("exit_int_info_err", "u32", "Error code belonging to `exit_int_info`."),
            Field("isa", "u32", "Instruction set of `exit_code`: 1 VMX, 2 SVM."),
        ),
        context=Context.VCPU,
        names=(Named("exit_code_name", "exit_code", "exit_reason", _REASON_NAME),),
        layouts=(
            "reason: {exit_code,isa:@exit_reason}"
            + _LABELLED % ("exit_info1", "exit_info2", "exit_int_info", "exit_int_info_err"),
            "reason {exit_code,isa:@exit_reason} info1 {exit_info1:x} info2 {exit_info2:x}"
            " int_info {exit_int_info:x} int_info_err {exit_int_info_err:x}",
        ),
    ),
    Tracepoint(
        "kvm",
        "kvm_nested_intr_vmexit",
        "A host interrupt makes L2 exit to L1.",
        fields=(Field("rip", "u64", "Instruction pointer of L2."),),
        context=Context.VCPU,
        layouts=("rip: 0x{rip:x}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_nested_vmenter_failed",
        "L1's entry into L2 is refused.",
        fields=(
            Field("msg", "str", "What was wrong (text: with the name of the error, if one is printed)."),
            Field("err", "u32", "VM-instruction error; 0 where there is none."),
        ),
        context=Context.VCPU,
        layouts=("{msg:s}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_nested_intercepts",
        "What L1 wants to intercept.",
        fields=(
            Field("cr_read", "u16", "Intercepted reads of control registers, one bit each."),
            Field("cr_write", "u16", "Intercepted writes of control registers, one bit each."),
            Field("exceptions", "u32", "Intercepted exceptions, one bit each."),
            Field("intercept1", "u32", "Third intercept word of the VMCB."),
            Field("intercept2", "u32", "Fourth intercept word of the VMCB."),
            Field("intercept3", "u32", "Fifth intercept word of the VMCB."),
            Field("intercept", "u64", "Before 5.9: the third and fourth intercept words in one."),
        ),
        context=Context.VCPU,
        layouts=(
            "cr_read: {cr_read:x} cr_write: {cr_write:x} excp: {exceptions:x}"
            " intercepts: {intercept1:x} {intercept2:x} {intercept3:x}",
            "cr_read: {cr_read:x} cr_write: {cr_write:x} excp: {exceptions:x} intercept: {intercept:x}",
        ),
    ),
    Tracepoint(
        "kvm",
        "kvm_invlpga",
        "L1 executes INVLPGA.",
        fields=(
            Field("rip", "u64", "Instruction pointer."),
            Field("asid", "u32", "Address space."),
            Field("address", "u64", "Virtual address."),
        ),
        context=Context.VCPU,
        layouts=("rip: 0x{rip:x} asid: {asid:d} address: 0x{address:x}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_skinit",
        "L1 executes SKINIT.",
        fields=(
            Field("rip", "u64", "Instruction pointer."),
            Field("slb", "u32", "Secure loader block."),
        ),
        context=Context.VCPU,
        layouts=("rip: 0x{rip:x} slb: 0x{slb:x}",),
    ),
)
