"""Tracepoints of the APIC and of interrupt delivery (arch/x86/kvm/trace.h, include/trace/events/kvm.h)."""

from __future__ import annotations

from hvtrace.schema.tracepoint import Context, Field, Tracepoint

__all__ = ["KVM_APIC"]

_APICID = Field("apicid", "u32", "vCPU id of the receiver.")
_ACCEPT_FIELDS = (
    _APICID,
    Field("dm", "u16", "Delivery mode, in bits 10:8 as in the interrupt command register."),
    Field("tm", "u16", "Trigger mode: 0 edge, else level (1 where the recording is text)."),
    Field("vec", "u8", "Vector."),
)
#: The kernel prints the vCPU id in hexadecimal, the vector in decimal.
_ACCEPT_LAYOUTS = ("apicid {apicid:x} vec {vec:u} ({dm:@delivery_mode}|{tm:edge=0|level=1})[ (coalesced)]",)
_MODE = "{e:@delivery_mode}|{e:logical=0x800|physical=0}|{e:level=0x8000|edge=0}"

KVM_APIC: tuple[Tracepoint, ...] = (
    Tracepoint(
        "kvm",
        "kvm_apic",
        "A local APIC register was accessed.",
        fields=(
            Field("rw", "u32", "1 for a write, 0 for a read."),
            Field("reg", "u32", "Offset of the register in the APIC page."),
            Field("val", "u64", "Value written or read."),
        ),
        context=Context.VCPU,
        layouts=("apic_{rw:write=1|read=0} {reg:@apic_register} = 0x{val:x}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_apic_ipi",
        "The vCPU sends an inter-processor interrupt.",
        fields=(
            Field("icr_low", "u32", "Low half of the interrupt command register."),
            Field("dest_id", "u32", "Destination."),
        ),
        context=Context.VCPU,
        layouts=(
            "dst {dest_id:x} vec {icr_low:u} ({icr_low:@delivery_mode}|{icr_low:logical=0x800|physical=0}"
            "|{icr_low:assert=0x4000|de-assert=0}|{icr_low:level=0x8000|edge=0}"
            "|{icr_low:dst=0|self=0x40000|all-but-self=0xc0000|all=0x80000})",
        ),
    ),
    Tracepoint(
        "kvm",
        "kvm_apic_accept_irq",
        "The local APIC of a vCPU accepts an interrupt.",
        fields=_ACCEPT_FIELDS,
        context=Context.NAMED,
        vcpu_field="apicid",
        layouts=_ACCEPT_LAYOUTS,
    ),
    Tracepoint(
        "kvm",
        "kvm_apicv_accept_irq",
        "An interrupt is posted to a vCPU with APICv or AVIC.",
        fields=_ACCEPT_FIELDS,
        context=Context.NAMED,
        vcpu_field="apicid",
        layouts=_ACCEPT_LAYOUTS,
    ),
    Tracepoint(
        "kvm",
        "kvm_eoi",
        "The vCPU finishes an interrupt.",
        fields=(_APICID, Field("vector", "s32", "Vector finished; -1 where none was in service.")),
        context=Context.VCPU,
        vcpu_field="apicid",
        layouts=("apicid {apicid:x} vector {vector:d}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_pv_eoi",
        "The vCPU finished an interrupt by the paravirtual EOI bit.",
        fields=(_APICID, Field("vector", "s32", "Vector finished; -1 where none was in service.")),
        context=Context.VCPU,
        vcpu_field="apicid",
        layouts=("apicid {apicid:x} vector {vector:d}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_set_irq",
        "The level of an interrupt line is set.",
        fields=(
            Field("gsi", "u32", "Global system interrupt."),
            Field("level", "s32", "Level: 0 or 1."),
            Field("irq_source_id", "s32", "Source of the interrupt."),
        ),
        layouts=("gsi {gsi:u} level {level:d} source {irq_source_id:d}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_msi_set_irq",
        "A message-signalled interrupt is delivered.",
        fields=(
            Field("address", "u64", "Message address (text tells the destination and mode bits only)."),
            Field("data", "u64", "Message data."),
        ),
        layouts=(
            "dst {address:msi} vec {data:u} ({data:@delivery_mode}|{address:logical=4|physical=0}"
            "|{data:level=0x8000|edge=0}[{address:|rh=8}])",
        ),
    ),
    Tracepoint(
        "kvm",
        "kvm_ioapic_set_irq",
        "A pin of the I/O APIC is raised.",
        fields=(
            Field("e", "u64", "Redirection entry (text tells destination, vector and the modes only)."),
            Field("pin", "s32", "Pin."),
            Field("coalesced", "bool", "The interrupt was already pending."),
        ),
        layouts=(
            "pin {pin:u} dst {e:x<<56} vec {e:u} ("
            + _MODE
            + "[{e:|masked=0x10000}]){coalesced? (coalesced)}",
        ),
    ),
    Tracepoint(
        "kvm",
        "kvm_ioapic_delayed_eoi_inj",
        "A level interrupt of the I/O APIC is injected again after a while.",
        fields=(Field("e", "u64", "Redirection entry (text tells destination, vector and the modes only)."),),
        layouts=("dst {e:x<<56} vec {e:u} (" + _MODE + "[{e:|masked=0x10000}])",),
    ),
    Tracepoint(
        "kvm",
        "kvm_pic_set_irq",
        "A pin of the 8259 is raised.",
        fields=(
            Field("chip", "u8", "0 master, 1 slave."),
            Field("pin", "u8", "Pin."),
            Field("elcr", "u8", "Edge/level register, a bit a pin."),
            Field("imr", "u8", "Mask register, a bit a pin."),
            Field("coalesced", "bool", "The interrupt was already pending."),
        ),
        layouts=("chip {chip:u} pin {pin:u} ({-:level=1|edge=0}[|masked]){coalesced? (coalesced)}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_ack_irq",
        "The guest acknowledged an interrupt of an irqchip.",
        fields=(
            Field("irqchip", "u32", "0 PIC master, 1 PIC slave, 2 I/O APIC."),
            Field("pin", "u32", "Pin."),
        ),
        layouts=("irqchip {irqchip:PIC master=0|PIC slave=1|IOAPIC=2} pin {pin:u}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_pi_irte_update",
        "A posted-interrupt entry of the IOMMU is changed.",
        fields=(
            Field("host_irq", "u32", "Interrupt number on the host."),
            Field("vcpu_id", "s32", "vCPU id the interrupt is posted to."),
            Field("gsi", "u32", "Global system interrupt of the guest."),
            Field("gvec", "u32", "Vector in the guest."),
            Field("pi_desc_addr", "u64", "Address of the posted-interrupt descriptor."),
            Field("set", "bool", "Enabled (true) or disabled."),
        ),
        context=Context.NAMED,
        vcpu_field="vcpu_id",
        layouts=(
            "[VT-d ]PI is {set:enabled and being updated=1|disabled=0} for irq {host_irq:u},"
            " vcpu {vcpu_id:d}, gsi: 0x{gsi:x}, gvec: 0x{gvec:x}[, pi_desc_addr: 0x{pi_desc_addr:x}]",
        ),
    ),
    Tracepoint(
        "kvm",
        "kvm_apicv_inhibit_changed",
        "A reason against APICv was set or cleared for the VM.",
        fields=(
            Field("reason", "s32", "Number of the reason, as the kernel at hand counts them; 1 is Hyper-V."),
            Field("set", "bool", "Set (true) or cleared."),
            Field("inhibits", "u64", "All reasons then, one bit each."),
        ),
        layouts=("{set:set=1|cleared=0} reason={reason:u}, inhibits=0x{inhibits:x}[ {-:s}]",),
    ),
    Tracepoint(
        "kvm",
        "kvm_apicv_update_request",
        "APICv is to be switched for the VM (5.7 to 5.17; kvm_apicv_inhibit_changed since).",
        fields=(
            Field("activate", "bool", "Activate (true) or deactivate."),
            Field("bit", "u64", "Number of the reason."),
        ),
        layouts=("{activate:activate=1|deactivate=0} bit={bit:u}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_avic_incomplete_ipi",
        "AVIC could not deliver an inter-processor interrupt by itself.",
        fields=(
            Field("vcpu", "u32", "vCPU id of the sender."),
            Field("icrh", "u32", "High half of the interrupt command register."),
            Field("icrl", "u32", "Low half of the interrupt command register."),
            Field("id", "u32", "Cause of the exit."),
            Field("index", "u32", "Index into the physical or logical APIC id table."),
        ),
        context=Context.VCPU,
        vcpu_field="vcpu",
        layouts=("vcpu={vcpu:u}, icrh:icrl={icrh:X}:{icrl:x}, id={id:u}, index={index:u}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_avic_unaccelerated_access",
        "AVIC does not accelerate this register access.",
        fields=(
            Field("vcpu", "u32", "vCPU id."),
            Field("offset", "u32", "Offset of the register in the APIC page."),
            Field("ft", "bool", "Trap (true) or fault."),
            Field("rw", "bool", "Write (true) or read."),
            Field("vec", "u32", "Vector, for EOI writes."),
        ),
        context=Context.VCPU,
        vcpu_field="vcpu",
        layouts=(
            "vcpu={vcpu:u}, offset={offset:X}({-:s}), {ft:trap=1|fault=0}, {rw:write=1|read=0}, vec={vec:X}",
        ),
    ),
    Tracepoint(
        "kvm",
        "kvm_avic_ga_log",
        "The IOMMU reports an interrupt for a vCPU that does not run.",
        fields=(Field("vmid", "u32", "AVIC id of the VM."), Field("vcpuid", "u32", "vCPU id.")),
        context=Context.NAMED,
        vcpu_field="vcpuid",
        layouts=("vmid={vmid:u}, vcpuid={vcpuid:u}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_avic_doorbell",
        "A running vCPU is told of a new interrupt.",
        fields=(
            Field("vcpuid", "u32", "vCPU id of the receiver."),
            Field("apicid", "u32", "APIC id of the host CPU it runs on."),
        ),
        context=Context.NAMED,
        vcpu_field="vcpuid",
        layouts=("vcpuid={vcpuid:u}, apicid={apicid:u}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_avic_kick_vcpu_slowpath",
        "The target of an AVIC interrupt had to be searched among all vCPUs.",
        fields=(
            Field("icrh", "u32", "High half of the interrupt command register."),
            Field("icrl", "u32", "Low half of the interrupt command register."),
            Field("index", "u32", "Index into the physical or logical APIC id table."),
        ),
        layouts=("icrh:icrl={icrh:X}:{icrl:x}, index={index:u}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_wait_lapic_expire",
        "The vCPU waited for the exact expiry of its TSC deadline.",
        fields=(
            Field("vcpu_id", "u32", "vCPU id as userspace gave it."),
            Field("delta", "s64", "Guest TSC less the deadline, in cycles; negative: early."),
        ),
        context=Context.VCPU,
        vcpu_field="vcpu_id",
        layouts=("vcpu {vcpu_id:u}: delta {delta:d} ({-:early=0|late=1})",),
    ),
    Tracepoint(
        "kvm",
        "kvm_hv_timer_state",
        "The local APIC timer moves to or from the VMX preemption timer (nothing of Hyper-V).",
        fields=(
            Field("vcpu_id", "u32", "vCPU id as userspace gave it."),
            Field("hv_timer_in_use", "u32", "1 where the preemption timer is in use."),
        ),
        context=Context.NAMED,
        vcpu_field="vcpu_id",
        layouts=("vcpu_id {vcpu_id:x} hv_timer {hv_timer_in_use:x}",),
    ),
)
