"""Names of the processor's own MSRs that guests of KVM touch often: local APIC, time, feature control, MTRRs.

Only names, for people who read a trace; the Hyper-V and KVM interfaces are hvtrace.abi.msr. Source: Intel SDM volume 4,
AMD APM volume 2 appendix A.
"""

from __future__ import annotations

__all__ = ["X86_MSRS", "x86_msr_name"]

#: Index → name.
X86_MSRS: dict[int, str] = {
    0x10: "IA32_TIME_STAMP_COUNTER",
    0x1B: "IA32_APIC_BASE",
    0x3A: "IA32_FEATURE_CONTROL",
    0x3B: "IA32_TSC_ADJUST",
    0x48: "IA32_SPEC_CTRL",
    0x49: "IA32_PRED_CMD",
    0x79: "IA32_BIOS_UPDT_TRIG",
    0x8B: "IA32_BIOS_SIGN_ID",
    0xCE: "MSR_PLATFORM_INFO",
    0xE7: "IA32_MPERF",
    0xE8: "IA32_APERF",
    0xFE: "IA32_MTRRCAP",
    0x10A: "IA32_ARCH_CAPABILITIES",
    0x10B: "IA32_FLUSH_CMD",
    0x140: "MSR_MISC_FEATURES_ENABLES",
    0x174: "IA32_SYSENTER_CS",
    0x175: "IA32_SYSENTER_ESP",
    0x176: "IA32_SYSENTER_EIP",
    0x179: "IA32_MCG_CAP",
    0x17A: "IA32_MCG_STATUS",
    0x17B: "IA32_MCG_CTL",
    0x186: "IA32_PERFEVTSEL0",
    0x1A0: "IA32_MISC_ENABLE",
    0x1D9: "IA32_DEBUGCTL",
    0x277: "IA32_PAT",
    0x2FF: "IA32_MTRR_DEF_TYPE",
    0x345: "IA32_PERF_CAPABILITIES",
    0x38D: "IA32_FIXED_CTR_CTRL",
    0x38F: "IA32_PERF_GLOBAL_CTRL",
    0x6E0: "IA32_TSC_DEADLINE",
    0xDA0: "IA32_XSS",
    0xC0000080: "IA32_EFER",
    0xC0000081: "IA32_STAR",
    0xC0000082: "IA32_LSTAR",
    0xC0000083: "IA32_CSTAR",
    0xC0000084: "IA32_FMASK",
    0xC0000100: "IA32_FS_BASE",
    0xC0000101: "IA32_GS_BASE",
    0xC0000102: "IA32_KERNEL_GS_BASE",
    0xC0000103: "IA32_TSC_AUX",
    0xC0010007: "MSR_K7_PERFCTR3",
    0xC0010010: "MSR_AMD64_SYSCFG",
    0xC0010015: "MSR_K7_HWCR",
    0xC001001F: "MSR_AMD64_NB_CFG",
    0xC0010114: "MSR_VM_CR",
    0xC0010117: "MSR_VM_HSAVE_PA",
    0xC0010140: "MSR_AMD64_OSVW_ID_LENGTH",
    0xC0010141: "MSR_AMD64_OSVW_STATUS",
    0xC0011020: "MSR_AMD64_LS_CFG",
    0xC0011022: "MSR_AMD64_DC_CFG",
    0xC0011023: "MSR_AMD64_TW_CFG",
    0xC0011029: "MSR_AMD64_DE_CFG",
}

#: x2APIC registers: 0x800 and the register's offset in the APIC page / 16.
_X2APIC = {
    0x02: "ID",
    0x03: "VERSION",
    0x08: "TPR",
    0x0A: "PPR",
    0x0B: "EOI",
    0x0D: "LDR",
    0x0F: "SIVR",
    0x28: "ESR",
    0x2F: "LVT_CMCI",
    0x30: "ICR",
    0x32: "LVT_TIMER",
    0x33: "LVT_THERMAL",
    0x34: "LVT_PMI",
    0x35: "LVT_LINT0",
    0x36: "LVT_LINT1",
    0x37: "LVT_ERROR",
    0x38: "INIT_COUNT",
    0x39: "CUR_COUNT",
    0x3E: "DIV_CONF",
    0x3F: "SELF_IPI",
}
X86_MSRS |= {0x800 + register: f"IA32_X2APIC_{name}" for register, name in _X2APIC.items()}
X86_MSRS |= {
    0x800 + base + at: f"IA32_X2APIC_{name}{at}"
    for base, name in ((0x10, "ISR"), (0x18, "TMR"), (0x20, "IRR"))
    for at in range(8)
}

#: MTRRs and machine-check banks come in runs.
X86_MSRS |= {
    0x200 + 2 * at + half: f"IA32_MTRR_PHYS{name}{at}"
    for at in range(10)
    for half, name in enumerate(("BASE", "MASK"))
}
X86_MSRS |= {
    0x250: "IA32_MTRR_FIX64K_00000",
    0x258: "IA32_MTRR_FIX16K_80000",
    0x259: "IA32_MTRR_FIX16K_A0000",
    **{0x268 + at: f"IA32_MTRR_FIX4K_{0xC0000 + 0x8000 * at:05X}" for at in range(8)},
}
X86_MSRS |= {
    0x400 + 4 * bank + at: f"IA32_MC{bank}_{name}"
    for bank in range(32)
    for at, name in enumerate(("CTL", "STATUS", "ADDR", "MISC"))
}


def x86_msr_name(index: int) -> str | None:
    """Name of one of the processor's own MSRs; None where it has none here."""
    return X86_MSRS.get(index)
