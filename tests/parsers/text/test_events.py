"""Texts of tracepoints, of all kernels and tools, and the fields they give."""

from __future__ import annotations

from typing import Any

import pytest

from .helpers import events, rows

#: Text → fields (null ones left out).
TEXTS: dict[str, dict[str, Any]] = {
    # Entry: 5.4, 5.10, 6.1, 6.16, trace-cmd's plugin.
    "kvm_entry: vcpu 3": {"vcpu_id": 3},
    "kvm_entry: vcpu 3, rip 0xfff0": {"vcpu_id": 3, "rip": 0xFFF0, "immediate_exit": False},
    "kvm_entry: vcpu 3, rip 0x40647b[immediate exit]": {"vcpu_id": 3, "rip": 0x40647B, "immediate_exit": True},
    "kvm_entry: vcpu 0, rip 0xa intr_info 0x80000030 error_code 0x00000000[immediate exit]": {
        "vcpu_id": 0, "rip": 10, "intr_info": 0x80000030, "error_code": 0, "immediate_exit": True,
    },
    # Exit: 5.4 and before, 5.10, 6.16, both instruction sets, flags, names the kernel does not know.
    "kvm_exit: reason EXTERNAL_INTERRUPT rip 0xffffffff8104f1a6 info 0 800000fb": {
        "exit_reason": 1, "isa": 1, "guest_rip": 0xFFFFFFFF8104F1A6, "info1": 0, "info2": 0x800000FB,
    },
    "kvm_exit: vcpu 1 reason npf rip 0xfff0 info 100000014 fffffff0": {
        "exit_reason": 0x400, "isa": 2, "guest_rip": 0xFFF0, "info1": 0x100000014, "info2": 0xFFFFFFF0,
        "vcpu_id": 1,
    },
    "kvm_exit: vcpu 1 reason PF excp rip 0x1 info1 0x0000000000000002 info2 0x00000000deadbeef"
    " intr_info 0x80000b0e error_code 0x00000002": {
        "exit_reason": 0x4E, "isa": 2, "guest_rip": 1, "info1": 2, "info2": 0xDEADBEEF,
        "intr_info": 0x80000B0E, "error_code": 2, "vcpu_id": 1,
    },
    "kvm_exit: vcpu 0 reason INVALID_STATE FAILED_VMENTRY rip 0x1 info1 0x0000000000000000"
    " info2 0x0000000000000000 intr_info 0x00000000 error_code 0x00000000 requests 0x0000000000400000": {
        "exit_reason": 0x80000021, "isa": 1, "guest_rip": 1, "info1": 0, "info2": 0, "intr_info": 0,
        "error_code": 0, "vcpu_id": 0, "requests": 0x400000,
    },
    "kvm_exit: vcpu 0 reason 0x8c rip 0x1 info1 0x0000000000000000 info2 0x0000000000000000"
    " intr_info 0x00000000 error_code 0x00000000": {
        "exit_reason": 0x8C, "guest_rip": 1, "info1": 0, "info2": 0, "intr_info": 0, "error_code": 0,
        "vcpu_id": 0,
    },
    "kvm_exit: reason EXIT_NPF rip 0xfff0 info 100000014 fffffff0": {
        "exit_reason": 0x400, "isa": 2, "guest_rip": 0xFFF0, "info1": 0x100000014, "info2": 0xFFFFFFF0,
    },
    "kvm_exit: reason UNKNOWN (165) rip 0xfff0 info 0 0": {
        "exit_reason": 165, "guest_rip": 0xFFF0, "info1": 0, "info2": 0,
    },
    # To userspace.
    "kvm_userspace_exit: reason KVM_EXIT_HYPERV (27)": {"reason": 27, "errno": 0},
    "kvm_userspace_exit: reason 0x25 (37)": {"reason": 37, "errno": 0},
    "kvm_userspace_exit: reason restart (4)": {"errno": -4},
    "kvm_userspace_exit: reason error (11)": {"errno": -11},
    # Instructions.
    "kvm_msr: msr_write 400000b1 = 0x1e3fff1a0": {
        "write": 1, "ecx": 0x400000B1, "data": 0x1E3FFF1A0, "exception": 0,
    },
    "kvm_msr: msr_read 40000073 = 0x0 (#GP)": {"write": 0, "ecx": 0x40000073, "data": 0, "exception": 1},
    "kvm_cpuid: func 40000003 rax fff rbx 0 rcx 0 rdx 1, cpuid entry not found": {
        "function": 0x40000003, "rax": 0xFFF, "rbx": 0, "rcx": 0, "rdx": 1, "found": False,
    },
    "kvm_cpuid: func 0 idx 7 rax d rbx 68747541 rcx 444d4163 rdx 69746e65, cpuid entry found, used max basic": {
        "function": 0, "index": 7, "rax": 13, "rbx": 0x68747541, "rcx": 0x444D4163, "rdx": 0x69746E65,
        "found": True, "used_max_basic": True,
    },
    "kvm_pio: pio_write at 0x402 size 1 count 3 val 0xa (...)": {
        "rw": 1, "port": 0x402, "size": 1, "count": 3, "val": 10,
    },
    "kvm_mmio: mmio unsatisfied-read len 4 gpa 0xfed000f0 val 0x0": {
        "type": 0, "len": 4, "gpa": 0xFED000F0, "val": 0,
    },
    "kvm_cr: cr_write 4 = 0x3006f8": {"rw": 1, "cr": 4, "val": 0x3006F8},
    "kvm_page_fault: address fed00000 error_code 1f": {"fault_address": 0xFED00000, "error_code": 0x1F},
    "kvm_page_fault: vcpu 1 rip 0x405bc2 address 0x00000000fee00020 error_code 0x10000000c": {
        "vcpu_id": 1, "guest_rip": 0x405BC2, "fault_address": 0xFEE00020, "error_code": 0x10000000C,
    },
    "kvm_emulate_insn: 0:ee2a2:c7 05 50 03 e0 fe 00 87 00 00 (prot32) failed": {
        "csbase": 0, "rip": 0xEE2A2, "len": 10, "insn": bytes.fromhex("c7055003e0fe00870000"), "flags": 5,
        "failed": 1,
    },
    "kvm_emulate_insn: f0000:ec2f: 0f 20 c1": {
        "csbase": 0xF0000, "rip": 0xEC2F, "len": 3, "insn": bytes.fromhex("0f20c1"), "failed": 0,
    },
    "kvm_emulate_insn: f0000:ec2f: 0f 20 FAIL": {
        "csbase": 0xF0000, "rip": 0xEC2F, "len": 2, "insn": bytes.fromhex("0f20"), "failed": 1,
    },
    # Injection: before 5.18 and since.
    "kvm_inj_virq: irq 236": {"vector": 236},
    "kvm_inj_virq: IRQ 0xec [reinjected]": {"vector": 0xEC, "soft": False, "reinjected": True},
    "kvm_inj_virq: Soft/INTn 0x80": {"vector": 0x80, "soft": True, "reinjected": False},
    "kvm_inj_exception: #GP (0x0)": {"exception": 13, "has_error": 1, "error_code": 0, "reinjected": False},
    "kvm_inj_exception: #PF (0x7) [reinjected]": {
        "exception": 14, "has_error": 1, "error_code": 7, "reinjected": True,
    },
    "kvm_inj_exception: #UD [reinjected]": {
        "exception": 6, "has_error": 0, "error_code": 0, "reinjected": True,
    },
    "kvm_inj_exception: [FAILED TO PARSE] exception=6 has_error=0 error_code=0 reinjected=1": {
        "exception": 6, "has_error": 0, "error_code": 0, "reinjected": True,
    },
    # APIC.
    "kvm_apic: apic_write APIC_ICR = 0xc4500": {"rw": 1, "reg": 0x300, "val": 0xC4500},
    "kvm_apic: apic_read 0x3a0 = 0x0": {"rw": 0, "reg": 0x3A0, "val": 0},
    "kvm_apic_ipi: dst 0 vec 16 (SIPI|physical|assert|edge|all-but-self)": {
        "dest_id": 0, "icr_low": 0xC4610,
    },
    "kvm_apic_accept_irq: apicid a vec 237 (Fixed|edge)": {"apicid": 10, "dm": 0, "tm": 0, "vec": 237},
    "kvm_apic_accept_irq: apicid 1 vec 0 (SIPI|level) (coalesced)": {
        "apicid": 1, "dm": 0x600, "tm": 1, "vec": 0,
    },
    "kvm_eoi: apicid 1f vector -1": {"apicid": 31, "vector": -1},
    "kvm_msi_set_irq: dst 5 vec 49 (LowPrio|logical|edge|rh)": {"address": 0x500C, "data": 0x131},
    "kvm_msi_set_irq: dst 12345 vec 49 (Fixed|physical|level)": {
        "address": 0x0001230000045000, "data": 0x8031,
    },
    "kvm_ioapic_set_irq: pin 4 dst ff vec 33 (LowPrio|logical|level|masked) (coalesced)": {
        "pin": 4, "e": 0xFF00000000018921, "coalesced": True,
    },
    "kvm_pic_set_irq: chip 1 pin 4 (edge|masked)": {"chip": 1, "pin": 4, "coalesced": False},
    "kvm_ack_irq: irqchip PIC slave pin 4": {"irqchip": 1, "pin": 4},
    "kvm_pi_irte_update: VT-d PI is enabled and being updated for irq 30, vcpu 2, gsi: 0x18, gvec: 0x31,"
    " pi_desc_addr: 0x1234500": {
        "host_irq": 30, "vcpu_id": 2, "gsi": 0x18, "gvec": 0x31, "pi_desc_addr": 0x1234500, "set": True,
    },
    "kvm_pi_irte_update: PI is disabled for irq 30, vcpu -1, gsi: 0x18, gvec: 0x31": {
        "host_irq": 30, "vcpu_id": -1, "gsi": 0x18, "gvec": 0x31, "set": False,
    },
    "kvm_apicv_inhibit_changed: set reason=1, inhibits=0x3 DISABLED|HYPERV": {
        "set": True, "reason": 1, "inhibits": 3,
    },
    "kvm_avic_incomplete_ipi: vcpu=1, icrh:icrl=0x01000000:000008fb, id=1, index=0": {
        "vcpu_field": 1, "icrh": 0x1000000, "icrl": 0x8FB, "id": 1, "index": 0,
    },
    "kvm_avic_incomplete_ipi: vcpu=1, icrh:icrl=0000000000:000008fb, id=1, index=0": {
        "vcpu_field": 1, "icrh": 0, "icrl": 0x8FB, "id": 1, "index": 0,
    },
    # Hyper-V.
    "kvm_hv_hypercall: code 0xb fast cnt 0x0 idx 0x0 in 0x2f out 0x6": {
        "code": 11, "fast": True, "rep_cnt": 0, "rep_idx": 0, "ingpa": 0x2F, "outgpa": 6,
    },
    "kvm_hv_hypercall: code 0x14 slow var_cnt 0x1 rep_cnt 0x2 idx 0x0 in 0x491b000 out 0x0": {
        "code": 0x14, "fast": False, "var_cnt": 1, "rep_cnt": 2, "rep_idx": 0, "ingpa": 0x491B000, "outgpa": 0,
    },
    "kvm_hv_synic_set_irq: vcpu_id 1 sint 2 vector 178 ret -1": {
        "vcpu_id": 1, "sint": 2, "vector": 178, "ret": -1,
    },
    "kvm_hv_synic_send_eoi: vcpu_id 1 vector 176": {"vcpu_id": 1, "vector": 176},
    "kvm_hv_stimer_set_count: vcpu_id 0 timer 0 count 18446744073709551615 host 1": {
        "vcpu_id": 0, "timer_index": 0, "count": 2**64 - 1, "host": True,
    },
    "kvm_hv_stimer_expiration: vcpu_id 0 timer 3 direct 0 send result -11": {
        "vcpu_id": 0, "timer_index": 3, "direct": 0, "msg_send_result": -11,
    },
    "kvm_hv_flush_tlb: processor_mask 0x3 address_space 0x0 flags 0x1": {
        "processor_mask": 3, "address_space": 0, "flags": 1,
    },
    "kvm_hv_flush_tlb: processor_mask 0x3 address_space 0x0 flags 0x1 ": {
        "processor_mask": 3, "address_space": 0, "flags": 1, "guest_mode": False,
    },
    "kvm_hv_flush_tlb: processor_mask 0x3 address_space 0x0 flags 0x1 (L2)": {
        "processor_mask": 3, "address_space": 0, "flags": 1, "guest_mode": True,
    },
    "kvm_hv_send_ipi: vector 2f processor_mask 0x6": {"vector": 0x2F, "processor_mask": 6},
    "kvm_hv_send_ipi_ex: vector 2f format 1 valid_bank_mask 0x0": {
        "vector": 0x2F, "format": 1, "valid_bank_mask": 0,
    },
    # Clocks and paravirtual services.
    "kvm_track_tsc: vcpu_id 1 masterclock 0 offsetmatched 1 nr_online 2 hostclock tsc": {
        "vcpu_id": 1, "use_master_clock": False, "nr_vcpus_matched_tsc": 1, "online_vcpus": 2, "host_clock": 1,
    },
    "kvm_update_master_clock: masterclock 1 hostclock 0x1 offsetmatched 1": {
        "use_master_clock": True, "host_clock": 1, "offset_matched": True,
    },
    "kvm_pvclock_update: vcpu_id 0, pvclock { version 4, tsc_timestamp 0x5f5e1, system_time 0x1234,"
    " tsc_to_system_mul 0xc4ec4ec5, tsc_shift -1, flags 0x1 }": {
        "vcpu_id": 0, "version": 4, "tsc_timestamp": 0x5F5E1, "system_time": 0x1234,
        "tsc_to_system_mul": 0xC4EC4EC5, "tsc_shift": -1, "flags": 1,
    },
    "kvm_write_tsc_offset: vcpu=0 prev=0 next=18446744036957739480": {
        "vcpu_id": 0, "previous_tsc_offset": 0, "next_tsc_offset": 18446744036957739480,
    },
    "kvm_halt_poll_ns: vcpu 1: halt_poll_ns 0 (shrink 20000)": {
        "vcpu_id": 1, "new": 0, "old": 20000, "grow": False,
    },
    "kvm_vcpu_wakeup: poll time 5635 ns": {"waited": False, "ns": 5635},
    "kvm_vcpu_wakeup: wait time 15321 ns, polling invalid": {"waited": True, "ns": 15321, "valid": False},
    "kvm_try_async_get_page: gva = 0x7f00, gfn = 0": {"gva": 0x7F00, "gfn": 0},
    # Scheduler: the kernel's form, and the plugin's, whose R may also be a thread that was preempted.
    "sched_switch: prev_comm=CPU 0/KVM prev_pid=206 prev_prio=120 prev_state=R+ ==> next_comm=a next_comm=b"
    " next_pid=15 next_prio=100": {
        "prev_comm": "CPU 0/KVM", "prev_pid": 206, "prev_prio": 120, "prev_state": 0x100,
        "next_comm": "a next_comm=b", "next_pid": 15, "next_prio": 100,
    },
    "sched_switch: CPU 0/KVM:206 [120] R ==> kworker/u4:0:9 [120]": {
        "prev_comm": "CPU 0/KVM", "prev_pid": 206, "prev_prio": 120, "next_comm": "kworker/u4:0", "next_pid": 9,
        "next_prio": 120,
    },
    "sched_switch: perf:196 [120] D|W ==> swapper/0:0 [120]": {
        "prev_comm": "perf", "prev_pid": 196, "prev_prio": 120, "prev_state": 0x82, "next_comm": "swapper/0",
        "next_pid": 0, "next_prio": 120,
    },
    "sched_wakeup: comm=kworker/0:1H pid=43 prio=100 target_cpu=001": {
        "comm_field": "kworker/0:1H", "pid": 43, "prio": 100, "target_cpu": 1,
    },
    "sched_wakeup: kworker/0:1H:43 [100] success=1 CPU:001": {
        "comm_field": "kworker/0:1H", "pid": 43, "prio": 100, "target_cpu": 1, "success": 1,
    },
}  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_texts_give_their_fields(text: str) -> None:
    """Numbers, names and flags of the text are the record's fields; the rest is null."""
    (row,) = events(text)
    assert row.pop("event") == text.partition(":")[0]
    assert row == TEXTS[text]


def test_texts_of_several_kernels_may_be_mixed() -> None:
    """Each line is read by the layout that fits it, whatever the lines around it are."""
    mixed = [t for t in TEXTS if t.startswith(("kvm_entry", "kvm_inj", "kvm_emulate", "sched", "kvm_cpuid"))]
    found = events("\n".join(mixed))
    expected = [TEXTS[t] for t in mixed]
    assert [{k: v for k, v in row.items() if k != "event"} for row in found] == expected


#: Older names of tracepoints: text, the newest name, fields.
RENAMED: list[tuple[str, str, dict[str, Any]]] = [
    (
        "kvm_enter_smm: vcpu 0: entering SMM, smbase 0x30000",
        "kvm_smm_transition",
        {"vcpu_id": 0, "entering": True, "smbase": 0x30000},
    ),
    (
        "kvm_async_pf_doublefault: gva = 0x1000, gfn = 0x1",
        "kvm_async_pf_repeated_fault",
        {"gva": 0x1000, "gfn": 1},
    ),
    (
        "kvm_ple_window: vcpu 1: ple_window 8192 (grow 4096)",
        "kvm_ple_window_update",
        {"vcpu_id": 1, "new": 8192, "old": 4096},
    ),
    (
        "kvm_nested_vmrun: rip: 0x0000000000000001 vmcb: 0x0000000000002000 nrip: 0x0000000000000003"
        " int_ctl: 0x00000004 event_inj: 0x00000005 npt: on",
        "kvm_nested_vmenter",
        {
            "rip": 1,
            "vmcb": 0x2000,
            "nested_rip": 3,
            "int_ctl": 4,
            "event_inj": 5,
            "tdp_enabled": True,
            "isa": 2,
        },
    ),
    ("tracing_mark_write: a mark: of mine", "print", {"buf": "a mark: of mine"}),
]


@pytest.mark.parametrize(("text", "name", "fields"), RENAMED, ids=[case[1] for case in RENAMED])
def test_older_names_come_under_the_newest(text: str, name: str, fields: dict[str, Any]) -> None:
    (row,) = events(text)
    assert row == {"event": name} | fields


def test_old_and_new_names_share_a_table() -> None:
    """Rows of both stand in one table, in their order."""
    found = events(
        "kvm_smm_transition: vcpu 0: entering SMM, smbase 0x1\n"
        "kvm_enter_smm: vcpu 0: leaving SMM, smbase 0x2\n"
        "kvm_smm_transition: vcpu 0: entering SMM, smbase 0x3\n"
    )
    assert [row["smbase"] for row in found] == [1, 2, 3]


def test_nested_events_may_end_with_an_empty_line() -> None:
    """Kernels of old end some texts with a line break of their own."""
    text = (
        "kvm_nested_vmexit: rip: 0x0000000000000001 reason: interrupt ext_inf1: 0x0000000000000002"
        " ext_inf2: 0x0000000000000003 ext_int: 0x00000004 ext_int_err: 0x00000005"
    )
    (row,) = rows(f"       CPU 0/KVM-206     [001] d..1.    16.000001: {text}\n\n")
    wanted = {
        "exit_reason": 0x60,
        "guest_rip": 1,
        "isa": 2,
        "info1": 2,
        "info2": 3,
        "intr_info": 4,
        "error_code": 5,
    }
    assert {k: row[k] for k in wanted} == wanted


#: trace-cmd report -R: bare fields, hexadecimal where the kernel prints them so.
RAW: dict[str, dict[str, Any]] = {
    "kvm_entry: vcpu_id=0 rip=0xfff0 immediate_exit=0": {"vcpu_id": 0, "rip": 0xFFF0, "immediate_exit": False},
    "kvm_exit: exit_reason=1024 guest_rip=0xfff0 isa=2 info1=0x0000000100000014 info2=0x00000000fffffff0"
    " intr_info=0x00000000 error_code=0x00000000 vcpu_id=0": {
        "exit_reason": 1024, "guest_rip": 0xFFF0, "isa": 2, "info1": 0x100000014, "info2": 0xFFFFFFF0,
        "intr_info": 0, "error_code": 0, "vcpu_id": 0,
    },
    "kvm_emulate_insn: rip=ec2f csbase=f0000 len=3 insn=ARRAY[0f, 20, c1, 66, 81] flags=0 failed=0": {
        "rip": 0xEC2F, "csbase": 0xF0000, "len": 3, "insn": b"\x0f\x20\xc1", "flags": 0, "failed": 0,
    },
    "kvm_userspace_exit: reason=0 errno=-4": {"reason": 0, "errno": -4},
    "kvm_cpuid: function=40000000 index=6 rax=40000082 rbx=0 rcx=0 rdx=7648204d found=1 used_max_basic=0": {
        "function": 0x40000000, "index": 6, "rax": 0x40000082, "rbx": 0, "rcx": 0, "rdx": 0x7648204D,
        "found": True, "used_max_basic": False,
    },
    "sched_wakeup: comm=CPU 0/KVM pid=15 prio=120 success=1 target_cpu=001": {
        "comm_field": "CPU 0/KVM", "pid": 15, "prio": 120, "success": 1, "target_cpu": 1,
    },
    "print: ip=tracing_mark_write buf=a line": {"buf": "a line"},
    # The kernel prints these fields bit by bit; trace-cmd then prints their lowest byte only.
    "kvm_apic_ipi: icr_low=16 dest_id=1": {"icr_low": None, "dest_id": 1},
}  # fmt: skip


@pytest.mark.parametrize("text", RAW)
def test_bare_fields_are_read(text: str) -> None:
    (row,) = rows(f" qemu-system-x86-206   [001]    16.754942: {text}\n")
    assert {k: row[k] for k in RAW[text]} == RAW[text]


def test_a_report_does_not_tell_a_failed_run_from_an_exit() -> None:
    """libtraceevent takes errno for unsigned: in its texts it is not known, except where it says so."""
    (row,) = rows(" qemu-system-x86-206   [001]    16.754942: kvm_userspace_exit:   reason KVM_EXIT_IO (2)\n")
    assert (row["reason"], row["errno"]) == (2, None)


def test_exits_without_a_name_take_the_host_s_instruction_set() -> None:
    """A host has one: what other exits say holds for an exit the kernel had no name for."""
    found = events(
        "kvm_exit: reason 0x8c rip 0x1 info 0 0\n"
        "kvm_exit: reason npf rip 0x1 info 0 0\n"
        "kvm_exit: reason UNKNOWN (165) rip 0x1 info 0 0\n"
        "kvm_nested_vmexit_inject: reason 0x8c info1 0 info2 0 int_info 0 int_info_err 0\n"
        "kvm_exit: no such form\n"
        "kvm_nested_vmenter: nor such a one\n"
    )
    assert [row["isa"] for row in found] == [2, 2, 2, 2]
