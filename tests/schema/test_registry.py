"""The tracepoint registry: complete, consistent, documented."""

from __future__ import annotations

import csv
from io import StringIO

import pyarrow as pa
import pytest

from hvtrace.schema.arrow import ARROW_TYPES
from hvtrace.schema.common import COMMON_NAMES
from hvtrace.schema.names import NAME_TABLES
from hvtrace.schema.registry import BY_NAME, TRACEPOINTS, event_fields, event_schema
from hvtrace.schema.tables import TABLES, table_schema
from hvtrace.schema.tracepoint import TYPES, Context, Tracepoint

#: Every KVM tracepoint of the kernels 5.4 to 7.1, and the scheduler's.
_KERNEL_NAMES = """
check_mmio_spte fast_page_fault handle_mmio_page_fault kvm_ack_irq kvm_age_hva kvm_age_page kvm_apic
kvm_apic_accept_irq kvm_apic_ipi kvm_apicv_accept_irq kvm_apicv_inhibit_changed kvm_apicv_update_request
kvm_async_pf_completed kvm_async_pf_doublefault kvm_async_pf_not_present kvm_async_pf_ready
kvm_async_pf_repeated_fault kvm_avic_doorbell kvm_avic_ga_log kvm_avic_incomplete_ipi
kvm_avic_kick_vcpu_slowpath kvm_avic_unaccelerated_access kvm_cpuid kvm_cr kvm_dirty_ring_exit
kvm_dirty_ring_push kvm_dirty_ring_reset kvm_emulate_insn kvm_enter_smm kvm_entry kvm_eoi kvm_exit
kvm_fast_mmio kvm_fpu kvm_halt_poll_ns kvm_hv_flush_tlb kvm_hv_flush_tlb_ex kvm_hv_hypercall
kvm_hv_hypercall_done kvm_hv_notify_acked_sint kvm_hv_send_ipi kvm_hv_send_ipi_ex kvm_hv_stimer_callback
kvm_hv_stimer_cleanup kvm_hv_stimer_expiration kvm_hv_stimer_set_config kvm_hv_stimer_set_count
kvm_hv_stimer_start_one_shot kvm_hv_stimer_start_periodic kvm_hv_syndbg_get_msr kvm_hv_syndbg_set_msr
kvm_hv_synic_send_eoi kvm_hv_synic_set_irq kvm_hv_synic_set_msr kvm_hv_timer_state kvm_hypercall
kvm_inj_exception kvm_inj_virq kvm_invlpga kvm_ioapic_delayed_eoi_inj kvm_ioapic_set_irq kvm_iocsr kvm_mmio
kvm_mmu_get_page kvm_mmu_pagetable_walk kvm_mmu_paging_element kvm_mmu_prepare_zap_page
kvm_mmu_set_accessed_bit kvm_mmu_set_dirty_bit kvm_mmu_set_spte kvm_mmu_split_huge_page
kvm_mmu_spte_requested kvm_mmu_sync_page kvm_mmu_unsync_page kvm_mmu_walker_error kvm_mmu_zap_all_fast
kvm_msi_set_irq kvm_msr kvm_nested_intercepts kvm_nested_intr_vmexit kvm_nested_vmenter
kvm_nested_vmenter_failed kvm_nested_vmexit kvm_nested_vmexit_inject kvm_nested_vmrun kvm_page_fault
kvm_pi_irte_update kvm_pic_set_irq kvm_pio kvm_ple_window_update kvm_pml_full kvm_pv_eoi kvm_pv_tlb_flush
kvm_pvclock_update kvm_rmp_fault kvm_set_irq kvm_set_spte_hva kvm_skinit kvm_smm_transition
kvm_tdp_mmu_spte_changed kvm_test_age_hva kvm_track_tsc kvm_try_async_get_page kvm_unmap_hva_range
kvm_update_master_clock kvm_userspace_exit kvm_vcpu_wakeup kvm_vm_set_mem_attributes kvm_vmgexit_enter
kvm_vmgexit_exit kvm_vmgexit_msr_protocol_enter kvm_vmgexit_msr_protocol_exit kvm_wait_lapic_expire
kvm_write_tsc_offset kvm_xen_hypercall mark_mmio_spte sched_switch sched_wakeup sched_wakeup_new sched_waking
vcpu_match_mmio
"""
KERNEL_NAMES = _KERNEL_NAMES.split()

#: A kernel's field, under the name it had there, and the column it is kept in.
RENAMED = """
event,kernel_field,column,type
kvm_inj_virq,irq,vector,u32
kvm_nested_vmrun,npt,tdp_enabled,bool
kvm_nested_vmexit,exit_code,exit_reason,u32
kvm_nested_vmexit,rip,guest_rip,u64
kvm_nested_vmexit,exit_info1,info1,u64
kvm_nested_vmexit,exit_int_info,intr_info,u32
kvm_enter_smm,entering,entering,bool
kvm_page_fault,error_code,error_code,u64
kvm_apic,val,val,u64
"""


def test_every_kernel_tracepoint_is_declared() -> None:
    """A tracepoint of any known kernel has an entry, under its own name or as the older name of another."""
    assert [name for name in KERNEL_NAMES if name not in BY_NAME] == []


def test_names_are_unique() -> None:
    """No name, new or old, stands for two tracepoints."""
    names = [name for t in TRACEPOINTS for name in (t.name, *t.older)]
    assert len(names) == len(set(names)) == len(BY_NAME)


def test_older_names_lead_to_the_newest() -> None:
    assert BY_NAME["kvm_enter_smm"].name == "kvm_smm_transition"
    assert BY_NAME["kvm_async_pf_doublefault"].name == "kvm_async_pf_repeated_fault"
    assert BY_NAME["kvm_nested_vmrun"].name == "kvm_nested_vmenter"


@pytest.mark.parametrize(
    "row", list(csv.DictReader(StringIO(RENAMED.strip()))), ids=lambda r: "-".join(r.values())
)
def test_renamed_and_widened_fields_have_one_column(row: dict[str, str]) -> None:
    """A field keeps its newest name and its widest type, whatever it was called in the kernel at hand."""
    (field,) = [f for f in BY_NAME[row["event"]].fields if row["kernel_field"] in (f.name, *f.older)]
    assert (field.name, field.type) == (row["column"], row["type"])


@pytest.mark.parametrize("tracepoint", TRACEPOINTS, ids=lambda t: t.name)
def test_entry_is_consistent(tracepoint: Tracepoint) -> None:
    """Fields have known types, a sentence, names that do not collide; what refers to a field finds it."""
    fields = {field.name for field in tracepoint.fields}
    every = [name for field in tracepoint.fields for name in (field.name, *field.older)]
    assert len(every) == len(set(every))
    assert {field.type for field in tracepoint.fields} <= set(TYPES)
    assert tracepoint.doc.endswith((".", ")"))
    assert [f.name for f in event_fields(tracepoint) if not f.doc.endswith((".", ")"))] == []
    assert {field.sized_by for field in tracepoint.fields} - {None} <= fields
    assert tracepoint.vcpu_field is None or tracepoint.vcpu_field in fields
    assert tracepoint.context is not Context.NAMED or tracepoint.vcpu_field is not None
    assert {named.field for named in tracepoint.names} <= fields
    assert {named.table for named in tracepoint.names} <= set(NAME_TABLES)
    assert tracepoint.layouts


@pytest.mark.parametrize("tracepoint", TRACEPOINTS, ids=lambda t: t.name)
def test_columns_do_not_collide_with_the_common_ones(tracepoint: Tracepoint) -> None:
    columns = event_schema(tracepoint).names
    assert len(columns) == len(set(columns))
    assert not COMMON_NAMES & set(columns)


def test_a_decoded_name_stands_beside_its_number() -> None:
    """kvm_exit's columns: the kernel's fields in the kernel's order, the reason's name after the reason."""
    assert event_schema(BY_NAME["kvm_exit"]).names == [
        "exit_reason", "exit_reason_name", "guest_rip", "isa", "info1", "info2", "intr_info", "error_code",
        "vcpu_id", "requests",
    ]  # fmt: skip


def test_a_colliding_field_gets_the_suffix() -> None:
    assert event_schema(BY_NAME["sched_wakeup"]).names[0] == "comm_field"
    assert event_schema(BY_NAME["kvm_avic_incomplete_ipi"]).names[0] == "vcpu_field"


def test_every_type_has_an_arrow_type() -> None:
    assert set(ARROW_TYPES) == set(TYPES)


@pytest.mark.parametrize("name", TABLES)
def test_other_tables_are_documented(name: str) -> None:
    assert [f.name for f in TABLES[name] if not f.doc.endswith((".", ")"))] == []
    assert isinstance(table_schema(name), pa.Schema)
