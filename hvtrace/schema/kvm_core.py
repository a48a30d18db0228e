"""Tracepoints of entry, exit and instruction handling (arch/x86/kvm/trace.h, virt/kvm)."""

from __future__ import annotations

from hvtrace.schema.tracepoint import Context, Field, Named, Tracepoint

__all__ = ["KVM_CORE"]

_VCPU_ID = Field("vcpu_id", "u32", "vCPU id as userspace gave it.")
_RIP = Field("guest_rip", "u64", "Guest instruction pointer.")
_REASON_NAME = Named("exit_reason_name", "exit_reason", "exit_reason", "Name of the exit reason, by `isa`.")

#: The part of kvm_exit's and kvm_nested_vmexit's text after the reason; the newest kernels add the requests.
_EXIT_TAIL = (
    " rip 0x{guest_rip:x} info1 0x{info1:x} info2 0x{info2:x}"
    " intr_info 0x{intr_info:x} error_code 0x{error_code:x}[ requests 0x{requests:x}]"
)

EXIT_FIELDS: tuple[Field, ...] = (
    Field(
        "exit_reason",
        "u32",
        "Exit reason: VMX reason with its flag bits, or SVM exit code.",
        older=("exit_code",),
    ),
    Field("guest_rip", "u64", "Guest instruction pointer at the exit.", older=("rip",)),
    Field("isa", "u32", "Instruction set of `exit_reason`: 1 VMX, 2 SVM."),
    Field("info1", "u64", "VMX exit qualification; SVM EXITINFO1.", older=("exit_info1",)),
    Field("info2", "u64", "VMX IDT-vectoring information; SVM EXITINFO2.", older=("exit_info2",)),
    Field("intr_info", "u32", "Interruption information of the exit.", older=("exit_int_info",)),
    Field("error_code", "u32", "Error code belonging to `intr_info`.", older=("exit_int_info_err",)),
    Field("vcpu_id", "u32", "vCPU id as userspace gave it."),
    Field("requests", "u64", "Requests pending for the vCPU at the exit, one bit each."),
)

KVM_CORE: tuple[Tracepoint, ...] = (
    Tracepoint(
        "kvm",
        "kvm_entry",
        "The vCPU is about to run guest code.",
        fields=(
            _VCPU_ID,
            Field("rip", "u64", "Guest instruction pointer; 0 for protected guests."),
            Field("immediate_exit", "bool", "An exit was requested before the first guest instruction."),
            Field("intr_info", "u32", "Event to inject: VMX entry interruption information; SVM EVENTINJ."),
            Field("error_code", "u32", "Error code of the event to inject."),
        ),
        context=Context.VCPU,
        vcpu_field="vcpu_id",
        layouts=(
            r"vcpu {vcpu_id:u}, rip 0x{rip:x}[ intr_info 0x{intr_info:x} error_code 0x{error_code:x}]"
            r"{immediate_exit?\[immediate exit\]}",
            "vcpu {vcpu_id:u}[ rip 0x{rip:x}]",
        ),
    ),
    Tracepoint(
        "kvm",
        "kvm_exit",
        "The guest left guest mode.",
        fields=EXIT_FIELDS,
        context=Context.VCPU,
        vcpu_field="vcpu_id",
        names=(_REASON_NAME,),
        layouts=(
            "vcpu {vcpu_id:u} reason {exit_reason,isa:@exit_reason}" + _EXIT_TAIL,
            "reason {exit_reason,isa:@exit_reason} rip 0x{guest_rip:x} info {info1:x} {info2:x}",
            "vcpu {vcpu_id:u} reason {exit_reason,isa:@exit_reason} rip 0x{guest_rip:x} info {info1:x} {info2:x}",
            "reason {exit_reason,isa:@exit_reason} rip 0x{guest_rip:x}",
        ),
    ),
    Tracepoint(
        "kvm",
        "kvm_userspace_exit",
        "KVM_RUN returned to userspace.",
        fields=(
            Field("reason", "u32", "run->exit_reason; meaningful where `errno` is not negative."),
            Field("errno", "s32", "Result of KVM_RUN: 0, or a negative error number."),
        ),
        context=Context.VCPU,
        names=(Named("reason_name", "reason", "userspace_exit", "Name of the userspace exit reason."),),
        layouts=(
            "reason restart ({errno:-u})",
            "reason error ({errno:-u})",
            # libtraceevent takes errno for unsigned: its texts look like this one whatever errno is.
            "reason KVM_EXIT_{-:s} ({reason:u}){errno=0!}",
            "reason 0x{-:s} ({reason:u}){errno=0!}",
        ),
    ),
    Tracepoint(
        "kvm",
        "kvm_msr",
        "An MSR access was handled; traced after its effects.",
        fields=(
            Field("write", "u32", "1 for WRMSR, 0 for RDMSR."),
            Field("ecx", "u32", "MSR index."),
            Field("data", "u64", "Value written or read; 0 for a refused read."),
            Field("exception", "u8", "1 where the access raised #GP."),
        ),
        context=Context.VCPU,
        names=(Named("msr_name", "ecx", "msr", "Name of a synthetic or KVM MSR."),),
        layouts=(r"msr_{write:write=1|read=0} {ecx:x} = 0x{data:x}{exception? (#GP)}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_cpuid",
        "A CPUID instruction was answered.",
        fields=(
            Field("function", "u32", "Leaf asked for (EAX)."),
            Field("index", "u32", "Subleaf asked for (ECX)."),
            Field("rax", "u64", "Answer in RAX."),
            Field("rbx", "u64", "Answer in RBX."),
            Field("rcx", "u64", "Answer in RCX."),
            Field("rdx", "u64", "Answer in RDX."),
            Field("found", "bool", "The leaf is in the vCPU's CPUID table."),
            Field("used_max_basic", "bool", "The answer is that of the highest basic leaf."),
        ),
        context=Context.VCPU,
        layouts=(
            "func {function:x} idx {index:x} rax {rax:x} rbx {rbx:x} rcx {rcx:x} rdx {rdx:x},"
            " cpuid entry {found:found=1|not found=0}{used_max_basic?, used max basic}",
            "func {function:x} rax {rax:x} rbx {rbx:x} rcx {rcx:x} rdx {rdx:x}"
            "[, cpuid entry {found:found=1|not found=0}]",
        ),
    ),
    Tracepoint(
        "kvm",
        "kvm_hypercall",
        "A hypercall of the KVM ABI.",
        fields=(
            Field("nr", "u64", "Hypercall number (RAX)."),
            *(Field(f"a{i}", "u64", f"Argument {i}.") for i in range(4)),
        ),
        context=Context.VCPU,
        names=(Named("nr_name", "nr", "kvm_hypercall", "Name of the KVM hypercall."),),
        layouts=("nr 0x{nr:x} a0 0x{a0:x} a1 0x{a1:x} a2 0x{a2:x} a3 0x{a3:x}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_xen_hypercall",
        "A hypercall of the Xen ABI.",
        fields=(
            Field("cpl", "u8", "Privilege level of the caller."),
            Field("nr", "u64", "Hypercall number."),
            *(Field(f"a{i}", "u64", f"Argument {i}.") for i in range(6)),
        ),
        context=Context.VCPU,
        layouts=(
            "[cpl {cpl:u} ]nr 0x{nr:x} a0 0x{a0:x} a1 0x{a1:x} a2 0x{a2:x} a3 0x{a3:x} a4 0x{a4:x} a5 {a5:X}",
        ),
    ),
    Tracepoint(
        "kvm",
        "kvm_pio",
        "Port input or output was handled.",
        fields=(
            Field("rw", "u32", "1 for output, 0 for input."),
            Field("port", "u32", "Port number."),
            Field("size", "u32", "Bytes of one access."),
            Field("count", "u32", "Number of accesses."),
            Field("val", "u32", "Value of the first access."),
        ),
        layouts=(
            "pio_{rw:write=1|read=0} at 0x{port:x} size {size:d} count {count:d} val 0x{val:x}[ (...)]",
            "pio_{rw:write=1|read=0} at 0x{port:x} size {size:d} count {count:d}",
        ),
    ),
    Tracepoint(
        "kvm",
        "kvm_mmio",
        "Memory-mapped input or output was handled.",
        fields=(
            Field("type", "u32", "0 read not yet satisfied, 1 read, 2 write."),
            Field("len", "u32", "Bytes accessed."),
            Field("gpa", "u64", "Guest physical address."),
            Field("val", "u64", "Value written or read."),
        ),
        layouts=("mmio {type:unsatisfied-read=0|read=1|write=2} len {len:u} gpa 0x{gpa:x} val 0x{val:x}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_iocsr",
        "A LoongArch IOCSR access was handled.",
        fields=(
            Field("type", "u32", "0 read not yet satisfied, 1 read, 2 write."),
            Field("len", "u32", "Bytes accessed."),
            Field("gpa", "u64", "Register address."),
            Field("val", "u64", "Value written or read."),
        ),
        layouts=("iocsr {type:unsatisfied-read=0|read=1|write=2} len {len:u} gpa 0x{gpa:x} val 0x{val:x}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_fast_mmio",
        "A write hit an ioeventfd's address and was finished without emulation.",
        fields=(Field("gpa", "u64", "Guest physical address."),),
        context=Context.VCPU,
        layouts=("fast mmio at gpa 0x{gpa:x}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_cr",
        "A control register was accessed.",
        fields=(
            Field("rw", "u32", "1 for a write, 0 for a read."),
            Field("cr", "u32", "Number of the control register."),
            Field("val", "u64", "Value written or read."),
        ),
        context=Context.VCPU,
        layouts=("cr_{rw:write=1|read=0} {cr:x} = 0x{val:x}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_page_fault",
        "A page fault of the guest or of nested paging reached the MMU.",
        fields=(
            _VCPU_ID,
            _RIP,
            Field("fault_address", "u64", "Faulting address: guest physical with nested paging."),
            Field("error_code", "u64", "Page-fault error code."),
        ),
        context=Context.VCPU,
        vcpu_field="vcpu_id",
        layouts=(
            "vcpu {vcpu_id:u} rip 0x{guest_rip:x} address 0x{fault_address:x} error_code 0x{error_code:x}",
            "address {fault_address:x} error_code {error_code:x}",
        ),
    ),
    Tracepoint(
        "kvm",
        "kvm_emulate_insn",
        "An instruction is emulated.",
        fields=(
            Field("rip", "u64", "Instruction pointer."),
            Field("csbase", "u32", "Base of the code segment."),
            Field("len", "u8", "Number of instruction bytes fetched."),
            Field("insn", "bytes", "The instruction bytes fetched.", sized_by="len"),
            Field("flags", "u8", "Mode: 0 real, 1 prot16, 3 vm16, 5 prot32, 9 prot64."),
            Field("failed", "u8", "1 where emulation failed."),
        ),
        context=Context.VCPU,
        layouts=(
            "{csbase:x}:{rip:x}:{insn,len:b} ({flags:real=0|vm16=3|prot16=1|prot32=5|prot64=9}){failed? failed}",
            "{csbase:x}:{rip:x}: {insn,len:b}{failed? FAIL}",
        ),
    ),
    Tracepoint(
        "kvm",
        "kvm_inj_virq",
        "An interrupt is injected into the guest.",
        fields=(
            Field("vector", "u32", "Vector.", older=("irq",)),
            Field("soft", "bool", "A software interrupt (INT n)."),
            Field("reinjected", "bool", "The same interrupt again, after a fault during its delivery."),
        ),
        context=Context.VCPU,
        layouts=(
            r"{soft:IRQ=0|Soft/INTn=1} 0x{vector:x}{reinjected? \[reinjected\]}",
            "irq {vector:u}",
        ),
    ),
    Tracepoint(
        "kvm",
        "kvm_inj_exception",
        "An exception is injected into the guest.",
        fields=(
            Field("exception", "u8", "Exception vector."),
            Field("has_error", "u8", "1 where the exception has an error code."),
            Field("error_code", "u32", "Error code."),
            Field("reinjected", "bool", "The same exception again, after a fault during its delivery."),
        ),
        context=Context.VCPU,
        layouts=(
            r"{exception:@exception} (0x{error_code:x}){has_error=1}{reinjected? \[reinjected\]}",
            r"{exception:@exception} ({error_code:x}){has_error=1}{reinjected? \[reinjected\]}",
            r"{exception:@exception}{has_error=0}{error_code=0}{reinjected? \[reinjected\]}",
        ),
    ),
    Tracepoint(
        "kvm",
        "kvm_fpu",
        "The guest's floating-point state was loaded or put away.",
        fields=(Field("load", "u32", "1 loaded, 0 put away."),),
        layouts=("{load:load=1|unload=0}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_smm_transition",
        "The vCPU enters or leaves system management mode.",
        fields=(
            _VCPU_ID,
            Field("smbase", "u64", "Base address of the SMM save area."),
            Field("entering", "bool", "Entering (true) or leaving."),
        ),
        context=Context.NAMED,
        vcpu_field="vcpu_id",
        older=("kvm_enter_smm",),
        layouts=("vcpu {vcpu_id:u}: {entering:entering=1|leaving=0} SMM, smbase 0x{smbase:x}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_ple_window_update",
        "The pause-loop window of the vCPU was changed.",
        fields=(
            _VCPU_ID,
            Field("new", "u32", "New window in TSC cycles (VMX) or PAUSE count (SVM)."),
            Field("old", "u32", "Window before, in the same unit."),
        ),
        context=Context.VCPU,
        vcpu_field="vcpu_id",
        older=("kvm_ple_window",),
        layouts=(
            "vcpu {vcpu_id:u} old {old:u} new {new:u} ({-:growed=1|shrinked=0})",
            "vcpu {vcpu_id:u}: ple_window {new:u} ({-:grow=1|shrink=0} {old:u})",
        ),
    ),
    Tracepoint(
        "kvm",
        "kvm_pml_full",
        "The page-modification log is full.",
        fields=(_VCPU_ID,),
        context=Context.VCPU,
        vcpu_field="vcpu_id",
        layouts=("vcpu {vcpu_id:d}: PML full",),
    ),
    Tracepoint(
        "kvm",
        "kvm_vmgexit_enter",
        "A GHCB exit of an SEV-ES guest is taken up.",
        fields=(
            _VCPU_ID,
            Field("exit_reason", "u64", "Exit code in the GHCB."),
            Field("info1", "u64", "SW_EXITINFO1."),
            Field("info2", "u64", "SW_EXITINFO2."),
        ),
        context=Context.VCPU,
        vcpu_field="vcpu_id",
        layouts=(
            "vcpu {vcpu_id:u}, exit_reason {exit_reason:x}, exit_info1 {info1:x}, exit_info2 {info2:x}",
        ),
    ),
    Tracepoint(
        "kvm",
        "kvm_vmgexit_exit",
        "A GHCB exit of an SEV-ES guest is finished.",
        fields=(
            _VCPU_ID,
            Field("exit_reason", "u64", "Exit code in the GHCB."),
            Field("info1", "u64", "SW_EXITINFO1."),
            Field("info2", "u64", "SW_EXITINFO2."),
        ),
        context=Context.VCPU,
        vcpu_field="vcpu_id",
        layouts=(
            "vcpu {vcpu_id:u}, exit_reason {exit_reason:x}, exit_info1 {info1:x}, exit_info2 {info2:x}",
        ),
    ),
    Tracepoint(
        "kvm",
        "kvm_vmgexit_msr_protocol_enter",
        "A request of the GHCB MSR protocol is taken up.",
        fields=(_VCPU_ID, Field("ghcb_gpa", "u64", "Value of the GHCB MSR.")),
        context=Context.VCPU,
        vcpu_field="vcpu_id",
        layouts=("vcpu {vcpu_id:u}, ghcb_gpa {ghcb_gpa:x}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_vmgexit_msr_protocol_exit",
        "A request of the GHCB MSR protocol is finished.",
        fields=(
            _VCPU_ID,
            Field("ghcb_gpa", "u64", "Value of the GHCB MSR."),
            Field("result", "s32", "1: back to the guest; 0 or negative: to userspace."),
        ),
        context=Context.VCPU,
        vcpu_field="vcpu_id",
        layouts=("vcpu {vcpu_id:u}, ghcb_gpa {ghcb_gpa:x}, result {result:d}",),
    ),
    Tracepoint(
        "kvm",
        "kvm_rmp_fault",
        "A reverse-map fault of an SEV-SNP guest was handled.",
        fields=(
            _VCPU_ID,
            Field("gpa", "u64", "Guest physical address."),
            Field("pfn", "u64", "Host page frame."),
            Field("error_code", "u64", "Page-fault error code."),
            Field("rmp_level", "s32", "Level of the reverse-map entry."),
            Field("psmash_ret", "s32", "Result of splitting the entry."),
        ),
        context=Context.VCPU,
        vcpu_field="vcpu_id",
        layouts=(
            "vcpu {vcpu_id:u} gpa {gpa:x} pfn 0x{pfn:x} error_code 0x{error_code:x}"
            " rmp_level {rmp_level:d} psmash_ret {psmash_ret:d}",
        ),
    ),
)
