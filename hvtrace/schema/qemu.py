"""Trace events of QEMU (its trace-events files): VMBus, the Hyper-V balloon, memory devices, KVM's ioctls.

The log backend and the ftrace backend print an event's name and its text; the simple backend writes the arguments in
this order. Arguments of 32 bits are printed with a sign.
"""

from __future__ import annotations

from hvtrace.schema.tracepoint import Field, Tracepoint

__all__ = ["OTHER", "QEMU", "QEMU_EVENTS"]


def _event(name: str, doc: str, *layouts: str, fields: tuple[Field, ...] = ()) -> Tracepoint:
    return Tracepoint("qemu", name, doc, fields, layouts=layouts)


def _u32(name: str, doc: str) -> Field:
    return Field(name, "u32", doc)


def _u64(name: str, doc: str) -> Field:
    return Field(name, "u64", doc)


_TYPE = _u32("type", "Number of the VMBus message.")
_SIZE = _u32("size", "Bytes of the message, its header of 8 bytes included.")
_CHANNEL = _u32("chan_id", "Number of the channel (relid).")
_GPADL = _u32("gpadl_id", "Number of the GPADL.")
_TARGET = _u32("target_vp", "VP that gets the channel's interrupts.")
_OPAQUE = Field("opaque", "u64", "Address of the device in QEMU.")
_ID = _u32("id", "Transaction id.")
_COUNT = _u64("count", "Pages of 4096 bytes.")
_START = _u64("start", "Number of the first page.")
_BOTH = Field("both", "bool", "Both bits of the pages are looked at.")
_CPU = Field("cpu_index", "s32", "Number of QEMU's CPU.")
_IOCTL = _u32("request", "The ioctl's number.")
_ARGUMENT = _u64("arg", "Its argument.")

VMBUS: tuple[Tracepoint, ...] = (
    _event(
        "vmbus_recv_message",
        "A message was posted by the guest and is queued; in the thread of the vCPU that posted it.",
        "type {type:d} size {size:d}",
        fields=(_TYPE, _SIZE),
    ),
    _event("vmbus_signal_event", "The guest signals by connection 2, as protocols before 2.4 do.", ""),
    _event(
        "vmbus_channel_notify_guest",
        "A device signals the guest.",
        "channel #{chan_id:d}",
        fields=(_CHANNEL,),
    ),
    _event(
        "vmbus_post_msg",
        "A message is given to the guest's SynIC; again where its slot was busy.",
        "type {type:d} size {size:d}",
        fields=(_TYPE, _SIZE),
    ),
    _event(
        "vmbus_msg_cb",
        "How the delivery of the last message went.",
        "message status {status:d}",
        fields=(Field("status", "s32", "0 delivered, -11 slot busy, else a negative error number."),),
    ),
    _event(
        "vmbus_process_incoming_message",
        "A queued message is taken up.",
        "type {message_type:d}",
        fields=(_u32("message_type", "Number of the VMBus message."),),
    ),
    _event(
        "vmbus_initiate_contact",
        "The guest proposes a version.",
        "version {major:d}.{minor:d} target vp {vcpu:d} mon pages 0x{monitor_page1:x},0x{monitor_page2:x}"
        " int page 0x{interrupt_page:x}",
        fields=(
            Field("major", "u16", "Major version."),
            Field("minor", "u16", "Minor version."),
            _u32("vcpu", "VP that gets messages."),
            _u64("monitor_page1", "Guest physical address of the monitor page to the guest."),
            _u64("monitor_page2", "Guest physical address of the monitor page from the guest."),
            _u64("interrupt_page", "Guest physical address of the interrupt page."),
        ),
    ),
    _event(
        "vmbus_send_offer",
        "A channel is offered.",
        "channel #{chan_id:d} dev 0x{dev:x}",
        fields=(_CHANNEL, _u64("dev", "Address of the device in QEMU.")),
    ),
    _event("vmbus_terminate_offers", "All channels have been offered.", ""),
    _event(
        "vmbus_gpadl_header",
        "The guest shares pages.",
        "gpadl #{gpadl_id:d} gfns {num_gfns:d}",
        fields=(_GPADL, Field("num_gfns", "u16", "Number of pages, its low 16 bits.")),
    ),
    *(
        _event(name, doc, "gpadl #{gpadl_id:d}", fields=(_GPADL,))
        for name, doc in (
            ("vmbus_gpadl_body", "More of the pages that the guest shares."),
            ("vmbus_gpadl_created", "All pages are known; the guest is told."),
            ("vmbus_gpadl_teardown", "The guest takes shared pages back."),
            ("vmbus_gpadl_torndown", "They are its own again; the guest is told."),
        )
    ),
    _event(
        "vmbus_open_channel",
        "The guest asks for a channel to be opened.",
        "channel #{chan_id:d} gpadl #{gpadl_id:d} target vp {target_vp:d}",
        fields=(_CHANNEL, _GPADL, _TARGET),
    ),
    _event(
        "vmbus_channel_open",
        "What became of it; the guest is told.",
        "channel #{chan_id:d} status {status:d}",
        fields=(_CHANNEL, _u32("status", "0 open, else refused.")),
    ),
    _event("vmbus_close_channel", "The guest closes a channel.", "channel #{chan_id:d}", fields=(_CHANNEL,)),
)


def _range(prefix: str, what: str) -> tuple[Field, Field]:
    return (
        _u64(f"{prefix}_count", f"Pages of {what}."),
        _u64(f"{prefix}_start", f"First page of {what}."),
    )


_BALLOONS = "{id:d} for {count:d}"

BALLOON: tuple[Tracepoint, ...] = (
    _event(
        "hv_balloon_state_change",
        "The balloon's state machine changes its state.",
        "-> {tostr:s}",
        fields=(Field("tostr", "str", "The new state."),),
    ),
    _event(
        "hv_balloon_incoming_version",
        "The guest proposes a version of the protocol.",
        "incoming proto version {major:d}.{minor:d}",
        fields=(Field("major", "u16", "Major version."), Field("minor", "u16", "Minor version.")),
    ),
    _event(
        "hv_balloon_incoming_caps",
        "The guest says what it can.",
        "incoming caps 0x{caps:x}",
        fields=(_u32("caps", "Bit 0 balloon, 1 hot-add, 5:2 alignment."),),
    ),
    _event(
        "hv_balloon_outgoing_unballoon",
        "The guest is told to take pages back.",
        f"posting unballoon {_BALLOONS} @ 0x{{start:x}}, remaining {{rempages:d}}",
        fields=(_ID, _COUNT, _START, _u64("rempages", "Pages that remain after these.")),
    ),
    _event(
        "hv_balloon_incoming_unballoon",
        "The guest took pages back.",
        "incoming unballoon response {id:d}",
        fields=(_ID,),
    ),
    _event(
        "hv_balloon_outgoing_hot_add",
        "The guest is told of more memory.",
        f"posting hot add {_BALLOONS} @ 0x{{start:x}}",
        fields=(_ID, _COUNT, _START),
    ),
    _event(
        "hv_balloon_incoming_hot_add",
        "The guest took more memory, or did not.",
        "incoming hot add response {id:d}, result {result:d}, count {count:d}",
        fields=(_ID, _u32("result", "1 done."), _u32("count", "Pages of 4096 bytes.")),
    ),
    _event(
        "hv_balloon_outgoing_balloon",
        "The guest is asked to give pages away.",
        f"posting balloon {_BALLOONS}, remaining {{rempages:d}}",
        fields=(_ID, _COUNT, _u64("rempages", "Pages that remain, these included.")),
    ),
    _event(
        "hv_balloon_incoming_balloon",
        "The guest gave pages away.",
        "incoming balloon response {id:d}, ranges {range_count:d}, more {more_pages:d}",
        fields=(_ID, _u32("range_count", "Ranges of pages."), _u32("more_pages", "More are to come.")),
    ),
    _event(
        "hv_balloon_our_range_add",
        "A range of pages belongs to the host now.",
        "adding our range {count:d} @ 0x{start:x}",
        fields=(_COUNT, _START),
    ),
    *(
        _event(name, doc, layout, fields=(_COUNT, _START, _BOTH))
        for name, doc, layout in (
            (
                "hv_balloon_remove_response",
                "A range that the guest gave is looked up.",
                "processing remove response range {count:d} @ 0x{start:x}, both {both:d}",
            ),
            (
                "hv_balloon_remove_response_remainder",
                "What is left of it.",
                "remove response remaining range {count:d} @ 0x{start:x}, both {both:d}",
            ),
        )
    ),
    _event(
        "hv_balloon_remove_response_hole",
        "A part of it that is not the host's.",
        "response range hole {hole_count:d} @ 0x{hole_start:x} from range {range_count:d} @ 0x{range_start:x},"
        " before our start 0x{our_start:x}, both {both:d}",
        fields=(
            *_range("hole", "the part"),
            *_range("range", "the guest's range"),
            _u64("our_start", "First page of the host's range."),
            _BOTH,
        ),
    ),
    _event(
        "hv_balloon_remove_response_common",
        "A part of it that is the host's.",
        "response common range {common_count:d} @ 0x{common_start:x} from range {range_count:d} @"
        " 0x{range_start:x} with our {our_count:d} @ 0x{our_start:x}, removed {removed:d}, both {both:d}",
        fields=(
            *_range("common", "the part"),
            *_range("range", "the guest's range"),
            *_range("our", "the host's range"),
            _u64("removed", "Pages taken."),
            _BOTH,
        ),
    ),
    *(
        _event(
            f"hv_balloon_{word}_slot",
            doc,
            f"{word}ping memslot {{idx:d}} / {{total_map:d}} @ 0x{{offset:x}}",
            fields=(
                _u32("idx", "Number of the slot."),
                _u32("total_map", "Slots there are."),
                _u64("offset", "Offset in bytes."),
            ),
        )
        for word, doc in (("map", "A slot of memory is mapped."), ("unmap", "A slot of memory is unmapped."))
    ),
    _event(
        "balloon_event",
        "Somebody wants the guest to have so much memory.",
        "opaque 0x{opaque:x} addr {addr:d}",
        fields=(_OPAQUE, _u64("addr", "Bytes of memory that the guest is to have.")),
    ),
    *(
        _event(
            name,
            doc,
            "id={id:s} addr=0x{addr:x}",
            fields=(Field("id", "str", "Name of the device."), _u64("addr", "Guest physical address.")),
        )
        for name, doc in (
            ("memory_device_pre_plug", "A memory device is about to be plugged in."),
            ("memory_device_plug", "A memory device was plugged in."),
            ("memory_device_unplug", "A memory device was unplugged."),
        )
    ),
)

KVM: tuple[Tracepoint, ...] = (
    *(
        _event(
            name,
            doc,
            "type 0x{request:x}, arg {arg:X}",
            "type 0x{request:x}, arg (nil)",
            fields=(_IOCTL, _ARGUMENT),
        )
        for name, doc in (("kvm_ioctl", "An ioctl of /dev/kvm."), ("kvm_vm_ioctl", "An ioctl of a VM."))
    ),
    _event(
        "kvm_vcpu_ioctl",
        "An ioctl of a vCPU.",
        "cpu_index {cpu_index:d}, type 0x{request:x}, arg {arg:X}",
        "cpu_index {cpu_index:d}, type 0x{request:x}, arg (nil)",
        fields=(_CPU, _IOCTL, _ARGUMENT),
    ),
    _event(
        "kvm_run_exit",
        "KVM_RUN returned.",
        "cpu_index {cpu_index:d}, reason {reason:d}",
        fields=(_CPU, _u32("reason", "Why: run->exit_reason.")),
    ),
    *(
        _event(
            name,
            doc,
            "index: {cpu_index:d} id: {arch_cpu_id:d}",
            fields=(_CPU, _u64("arch_cpu_id", "Id that KVM knows it by (on x86 the APIC id).")),
        )
        for name, doc in (
            ("kvm_init_vcpu", "A vCPU gets ready to run."),
            ("kvm_destroy_vcpu", "A vCPU goes."),
            ("kvm_park_vcpu", "A vCPU is put aside."),
        )
    ),
    _event(
        "kvm_create_vcpu",
        "A vCPU is made.",
        "index: {cpu_index:d}, id: {arch_cpu_id:d}, kvm fd: {kvm_fd:d}",
        fields=(
            _CPU,
            _u64("arch_cpu_id", "Id that KVM knows it by."),
            Field("kvm_fd", "s32", "Its descriptor."),
        ),
    ),
    _event("kvm_irqchip_commit_routes", "Interrupt routes are given to KVM.", ""),
    _event(
        "kvm_irqchip_add_msi_route",
        "A route of a message-signalled interrupt is made.",
        "dev {name:s} vector {vector:d} virq {virq:d}",
        fields=(
            Field("name", "str", "Name of the device."),
            Field("vector", "s32", "Number of the interrupt in the device."),
            Field("virq", "s32", "Number of the route (GSI)."),
        ),
    ),
    *(
        _event(name, doc, layout, fields=(Field("virq", "s32", "Number of the route (GSI)."),))
        for name, doc, layout in (
            ("kvm_irqchip_update_msi_route", "A route is changed.", "Updating MSI route virq={virq:d}"),
            ("kvm_irqchip_release_virq", "A route is given back.", "virq {virq:d}"),
            ("kvm_x86_add_msi_route", "A route is remembered.", "Adding route entry for virq {virq:d}"),
            ("kvm_x86_remove_msi_route", "A route is forgotten.", "Removing route entry for virq {virq:d}"),
        )
    ),
    _event("kvm_interrupt_exit_request", "A vCPU is asked to leave KVM_RUN.", ""),
    _event("kvm_cpu_exec", "A vCPU's loop begins.", ""),
    _event("kvm_io_window_exit", "The guest can take an interrupt now.", ""),
)

#: An event that is none of these.
OTHER = Tracepoint(
    "qemu",
    "qemu_event",
    "Another trace event of QEMU.",
    fields=(
        Field("event", "str", "Its name."),
        Field("text", "str", "Its text; of the simple backend, its arguments in hexadecimal."),
    ),
    layouts=("{event:s} {text:s}",),
)

QEMU: tuple[Tracepoint, ...] = (*VMBUS, *BALLOON, *KVM, OTHER)

#: By name, those that have columns of their own.
QEMU_EVENTS: dict[str, Tracepoint] = {event.name: event for event in QEMU if event is not OTHER}
