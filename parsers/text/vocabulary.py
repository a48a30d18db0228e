"""Words in tracepoint texts and the numbers they stand for: the tables that layouts name with `@`.

Sources: arch/x86/kvm/trace.h, include/trace/events/sched.h; the EXIT_ names are those of libtraceevent's kvm plugin.
"""

from __future__ import annotations

from itertools import combinations

from hvtrace.abi import exit_reasons
from hvtrace.parsers.text.layout import Words

__all__ = ["APIC_REGISTERS", "DELIVERY_MODES", "EXCEPTIONS", "VOCABULARY"]

#: Offset in the APIC page → name, as KVM prints it after APIC_.
APIC_REGISTERS: dict[int, str] = {
    0x20: "ID",
    0x30: "LVR",
    0x80: "TASKPRI",
    0x90: "ARBPRI",
    0xA0: "PROCPRI",
    0xB0: "EOI",
    0xC0: "RRR",
    0xD0: "LDR",
    0xE0: "DFR",
    0xF0: "SPIV",
    0x100: "ISR",
    0x180: "TMR",
    0x200: "IRR",
    0x280: "ESR",
    0x300: "ICR",
    0x310: "ICR2",
    0x320: "LVTT",
    0x330: "LVTTHMR",
    0x340: "LVTPC",
    0x350: "LVT0",
    0x360: "LVT1",
    0x370: "LVTERR",
    0x380: "TMICT",
    0x390: "TMCCT",
    0x3E0: "TDCR",
    0x3F0: "SELF_IPI",
    0x400: "EFEAT",
    0x410: "ECTRL",
}

DELIVERY_MODES = ("Fixed", "LowPrio", "SMI", "Res3", "NMI", "INIT", "SIPI", "ExtINT")

#: Exception vector → name, as KVM prints it after #.
EXCEPTIONS: dict[int, str] = {
    0: "DE", 1: "DB", 3: "BP", 4: "OF", 5: "BR", 6: "UD", 7: "NM", 8: "DF", 10: "TS", 11: "NP", 12: "SS",
    13: "GP", 14: "PF", 16: "MF", 17: "AC", 18: "MC", 19: "XM", 20: "VE", 21: "CP", 28: "HV", 29: "VC",
    30: "SX",
}  # fmt: skip

#: VMX reasons under the names of older kernels and of the plugin.
_OLDER_VMX = {"PENDING_INTERRUPT": 7}

#: What libtraceevent's kvm plugin calls SVM exit codes where it is not EXIT_ and KVM's name in capitals.
_PLUGIN_SVM: dict[str, int] = {
    "EXIT_INTR": 0x60,
    "EXIT_NMI": 0x61,
    "EXIT_SMI": 0x62,
    "EXIT_INIT": 0x63,
    "EXIT_VINTR": 0x64,
    "EXIT_IDTR_READ": 0x66,
    "EXIT_GDTR_READ": 0x67,
    "EXIT_LDTR_READ": 0x68,
    "EXIT_TR_READ": 0x69,
    "EXIT_IDTR_WRITE": 0x6A,
    "EXIT_GDTR_WRITE": 0x6B,
    "EXIT_LDTR_WRITE": 0x6C,
    "EXIT_TR_WRITE": 0x6D,
    "EXIT_IOIO": 0x7B,
    "EXIT_VMMCALL": 0x81,
    "EXIT_MWAIT_COND": 0x8C,
    "EXIT_ERR": 0xFFFFFFFF,
}


def _exit_reasons() -> Words:
    words: dict[str, tuple[int | None, ...]] = {}
    for word, code in _PLUGIN_SVM.items():
        words[word] = (code, exit_reasons.ISA_SVM)
    for code, name in exit_reasons.SVM.items():
        words[name] = (code, exit_reasons.ISA_SVM)
        exception = name.removesuffix(" excp")
        plugin = "EXIT_" + (name.upper() if exception == name else "EXCP_" + exception)
        words.setdefault(plugin, (code, exit_reasons.ISA_SVM))
    for code, name in exit_reasons.VMX.items():
        words[name] = (code, exit_reasons.ISA_VMX)
        for bit, flag in exit_reasons.VMX_FLAGS.items():
            words[f"{name} {flag}"] = (code | bit, exit_reasons.ISA_VMX)
    for name, code in _OLDER_VMX.items():
        words.setdefault(name, (code, exit_reasons.ISA_VMX))
    return words


def _states(letters: dict[str, int | None], joined: bool) -> Words:
    """A task state's letters: R for none of the bits, one of them, or two joined by a bar."""
    words: dict[str, tuple[int | None, ...]] = {letter: (bits,) for letter, bits in letters.items()}
    for (a, low), (b, high) in combinations([(k, v) for k, v in letters.items() if v], 2):
        words[f"{a}|{b}"] = ((low or 0) | (high or 0),)
    if joined:
        for word, (bits,) in list(words.items()):
            words[word + "+"] = ((bits or 0) | 0x100,)
    return words


VOCABULARY: dict[str, Words] = {
    "exit_reason": _exit_reasons(),
    "apic_register": {f"APIC_{name}": (offset,) for offset, name in APIC_REGISTERS.items()},
    "delivery_mode": {name: (mode << 8,) for mode, name in enumerate(DELIVERY_MODES)},
    "exception": {f"#{name}": (vector,) for vector, name in EXCEPTIONS.items()},
    # The kernel marks a preempted thread with a plus.
    "task_state": _states(
        {"R": 0, "S": 1, "D": 2, "T": 4, "t": 8, "X": 16, "Z": 32, "P": 64, "I": 128}, True
    ),
    # libtraceevent's plugin has other letters for some bits, and none for a preempted thread: its R says nothing.
    "plugin_task_state": _states(
        {"R": None, "S": 1, "D": 2, "T": 4, "t": 8, "Z": 16, "X": 32, "x": 64, "W": 128}, False
    ),
}
