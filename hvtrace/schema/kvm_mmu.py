"""Tracepoints of the shadow and nested MMU and of memory (arch/x86/kvm/mmu/mmutrace.h, events/kvm.h)."""

from __future__ import annotations

from hvtrace.schema.tracepoint import Context, Field, Tracepoint

__all__ = ["KVM_MMU"]

_GFN = Field("gfn", "u64", "Guest page frame.")
_LEVEL = Field("level", "u8", "Level in the page table; 1 is a 4 KiB page.")
_SPTEP = Field("sptep", "u64", "Host address of the shadow entry.")
_GPA = Field("gpa", "u64", "Guest physical address.")
_PFERR = Field("pferr", "u32", "Page-fault error code.")
_HVA = Field("hva", "u64", "Host virtual address.")
_RANGE = (
    Field("start", "u64", "First host virtual address."),
    Field("end", "u64", "Host virtual address after the last."),
)
_PAGE_FIELDS = (
    Field("mmu_valid_gen", "u8", "Generation of the shadow page."),
    _GFN,
    Field("role", "u32", "Role of the shadow page, packed bits."),
    Field("root_count", "u32", "Number of roots that use it."),
    Field("unsync", "bool", "It may differ from the guest's page table."),
)
#: The text of a shadow page's role cannot be turned back into its bits: only these are taken.
_PAGE_LAYOUT = "sp gen {mmu_valid_gen:u} gfn {gfn:x} {-:s} root {root_count:u} {unsync:unsync=1|sync=0}"
_RING_FIELDS = (
    Field("index", "s32", "Index of the ring."),
    Field("dirty_index", "u32", "Entries put in so far."),
    Field("reset_index", "u32", "Entries collected so far."),
)
_RING_TEXT = "ring {index:d}: dirty 0x{dirty_index:x} reset 0x{reset_index:x}"


def _page(name: str, doc: str) -> Tracepoint:
    return Tracepoint("kvmmmu", name, doc, fields=_PAGE_FIELDS, layouts=(_PAGE_LAYOUT + "",))


KVM_MMU: tuple[Tracepoint, ...] = (
    Tracepoint(
        "kvm",
        "vcpu_match_mmio",
        "An access hit the page of the last MMIO access.",
        fields=(
            Field("gva", "u64", "Guest virtual address."),
            _GPA,
            Field("write", "bool", "Write (true) or read."),
            Field("gpa_match", "bool", "Found by physical (true) or virtual address."),
        ),
        context=Context.VCPU,
        layouts=("gva {gva:X} gpa {gpa:X} {write:Write=1|Read=0} {gpa_match:GPA=1|GVA=0}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_unmap_hva_range",
        "Host memory behind the guest is unmapped.",
        fields=_RANGE,
        layouts=("mmu notifier unmap range: {start:X} -- {end:X}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_set_spte_hva",
        "Host memory behind the guest moves to another page.",
        fields=(_HVA,),
        layouts=("mmu notifier set pte hva: {hva:X}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_age_hva",
        "The host asks whether memory was used, and forgets the answer.",
        fields=_RANGE,
        layouts=("mmu notifier age hva: {start:X} -- {end:X}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_test_age_hva",
        "The host asks whether memory was used.",
        fields=(_HVA,),
        layouts=("mmu notifier test age hva: {hva:X}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_age_page",
        "The host asks whether a page was used (before 5.13).",
        fields=(
            Field("hva", "u64", "Host virtual address."),
            _GFN,
            _LEVEL,
            Field("referenced", "u8", "1 where it was used."),
        ),
        layouts=("hva {hva:x} gfn {gfn:x} level {level:u} {referenced:YOUNG=1|OLD=0}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_vm_set_mem_attributes",
        "Userspace sets attributes of guest memory.",
        fields=(
            Field("start", "u64", "First guest page frame."),
            Field("end", "u64", "Guest page frame after the last."),
            Field("attr", "u64", "Attributes, one bit each."),
        ),
        layouts=("start 0x{start:x}, end 0x{end:x}, attributes 0x{attr:x}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_dirty_ring_push",
        "A dirty page is put into a ring.",
        fields=(
            *_RING_FIELDS,
            Field("slot", "u32", "Memory slot."),
            Field("offset", "u64", "Page within the slot."),
        ),
        layouts=(_RING_TEXT + " slot {slot:u} offset 0x{offset:x} (used {-:u})",),
    ),
    Tracepoint(
        "kvm",
        "kvm_dirty_ring_reset",
        "Userspace has collected entries of a ring.",
        fields=_RING_FIELDS,
        layouts=(_RING_TEXT + " (used {-:u})",),
    ),
    Tracepoint(
        "kvm",
        "kvm_dirty_ring_exit",
        "The vCPU goes to userspace as its ring is nearly full.",
        fields=(Field("vcpu_id", "s32", "vCPU id as userspace gave it."),),
        context=Context.VCPU,
        vcpu_field="vcpu_id",
        layouts=("vcpu {vcpu_id:d}",),
    ),
    Tracepoint(
        "kvmmmu",
        "kvm_mmu_pagetable_walk",
        "A walk of the guest's page table begins.",
        fields=(Field("addr", "u64", "Guest address."), _PFERR),
        layouts=("addr {addr:x} pferr {pferr:x}[ {-:s}]",),
    ),
    Tracepoint(
        "kvmmmu",
        "kvm_mmu_paging_element",
        "A walk of the guest's page table reads an entry.",
        fields=(Field("pte", "u64", "Entry."), Field("level", "u32", "Level; 1 is the lowest.")),
        layouts=("pte {pte:x} level {level:u}",),
    ),
    Tracepoint(
        "kvmmmu",
        "kvm_mmu_walker_error",
        "A walk of the guest's page table ends in a fault.",
        fields=(_PFERR,),
        layouts=("pferr {pferr:x}[ {-:s}]",),
    ),
    Tracepoint(
        "kvmmmu",
        "kvm_mmu_set_accessed_bit",
        "The accessed bit of a guest entry is set.",
        fields=(_GPA,),
        layouts=("gpa {gpa:x}",),
    ),
    Tracepoint(
        "kvmmmu",
        "kvm_mmu_set_dirty_bit",
        "The dirty bit of a guest entry is set.",
        fields=(_GPA,),
        layouts=("gpa {gpa:x}",),
    ),
    Tracepoint(
        "kvmmmu",
        "kvm_mmu_get_page",
        "A shadow page is looked up.",
        fields=(*_PAGE_FIELDS, Field("created", "bool", "Created new (true) or found.")),
        layouts=(_PAGE_LAYOUT + " {created:new=1|existing=0}",),
    ),
    _page("kvm_mmu_sync_page", "A shadow page is brought up to date."),
    _page("kvm_mmu_unsync_page", "A shadow page may differ from the guest's from now on."),
    _page("kvm_mmu_prepare_zap_page", "A shadow page is about to go."),
    Tracepoint(
        "kvmmmu",
        "kvm_mmu_zap_all_fast",
        "All shadow pages are made obsolete.",
        fields=(
            Field("mmu_valid_gen", "u8", "Generation now valid."),
            Field("mmu_used_pages", "u32", "Shadow pages in use."),
        ),
        layouts=("kvm-mmu-valid-gen {mmu_valid_gen:u} used_pages {mmu_used_pages:x}",),
    ),
    Tracepoint(
        "kvmmmu",
        "kvm_mmu_set_spte",
        "A shadow entry is set.",
        fields=(
            _GFN,
            Field("spte", "u64", "Value of the shadow entry."),
            _SPTEP,
            _LEVEL,
            Field("r", "bool", "Readable."),
            Field("x", "bool", "Executable."),
            Field("u", "s8", "1 user, 0 supervisor, -1 not known."),
        ),
        layouts=(
            "gfn {gfn:x} spte {spte:x} ({r:r=1|-=0}{-:w=1|-=0}{x:x=1|-=0}{u:u=1|s=0|=-1})"
            " level {level:d} at {sptep:x}",
        ),
    ),
    Tracepoint(
        "kvmmmu",
        "kvm_mmu_spte_requested",
        "A fault asks for a shadow entry.",
        fields=(_GFN, Field("pfn", "u64", "Host page frame."), _LEVEL),
        layouts=("gfn {gfn:x} pfn {pfn:x} level {level:d}",),
    ),
    Tracepoint(
        "kvmmmu",
        "kvm_tdp_mmu_spte_changed",
        "An entry of the nested page table changed.",
        fields=(
            _GFN,
            Field("old_spte", "u64", "Entry before."),
            Field("new_spte", "u64", "Entry now."),
            _LEVEL,
            Field("as_id", "u8", "Address space: 0 normal, 1 SMM."),
        ),
        layouts=("as id {as_id:d} gfn {gfn:x} level {level:d} old_spte {old_spte:x} new_spte {new_spte:x}",),
    ),
    Tracepoint(
        "kvmmmu",
        "kvm_mmu_split_huge_page",
        "A huge page is split.",
        fields=(
            _GFN,
            Field("spte", "u64", "Value of the shadow entry."),
            Field("level", "s32", "Level of the huge page."),
            Field("errno", "s32", "0 or a negative error number."),
        ),
        layouts=("gfn {gfn:x} spte {spte:x} level {level:d} errno {errno:d}",),
    ),
    Tracepoint(
        "kvmmmu",
        "mark_mmio_spte",
        "An entry is marked as MMIO.",
        fields=(
            _SPTEP,
            _GFN,
            Field("access", "u32", "Access rights."),
            Field("gen", "u32", "Generation of the memory slots."),
        ),
        layouts=("sptep:{sptep:X} gfn {gfn:x} access {access:x} gen {gen:x}",),
    ),
    Tracepoint(
        "kvmmmu",
        "handle_mmio_page_fault",
        "A fault on an entry marked as MMIO.",
        fields=(
            Field("addr", "u64", "Faulting address."),
            _GFN,
            Field("access", "u32", "Access rights."),
        ),
        layouts=("addr:{addr:x} gfn {gfn:x} access {access:x}",),
    ),
    Tracepoint(
        "kvmmmu",
        "check_mmio_spte",
        "The generation of an entry marked as MMIO is checked.",
        fields=(
            Field("kvm_gen", "u32", "Generation of the memory slots."),
            Field("spte_gen", "u32", "Generation in the entry."),
            Field("spte", "u64", "Entry."),
        ),
        layouts=("spte {spte:x} kvm_gen {kvm_gen:x} spte-gen {spte_gen:x} valid {-:d}",),
    ),
    Tracepoint(
        "kvmmmu",
        "fast_page_fault",
        "A fault was tried without the MMU lock.",
        fields=(
            Field("vcpu_id", "s32", "vCPU id as userspace gave it."),
            Field("cr2_or_gpa", "u64", "Faulting address.", older=("gva",)),
            Field("error_code", "u64", "Page-fault error code."),
            _SPTEP,
            Field("old_spte", "u64", "Entry before."),
            Field("new_spte", "u64", "Entry now."),
            Field("ret", "s32", "Outcome (RET_PF_*).", older=()),
            Field("retry", "bool", "Before 5.10: to be tried again."),
        ),
        context=Context.VCPU,
        vcpu_field="vcpu_id",
        layouts=(
            "vcpu {vcpu_id:d} gva {cr2_or_gpa:x} error_code {-:s} sptep {sptep:X} old {old_spte:X}"
            " new {new_spte:x} spurious {-:d} fixed {-:d}",
        ),
    ),
)
