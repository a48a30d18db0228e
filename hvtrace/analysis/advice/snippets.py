"""What to write into QEMU's command line or libvirt's domain to offer a flag, with the flags it needs."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from hvtrace.abi.flags import FLAGS, flag_by_name

__all__ = ["LIBVIRT", "libvirt", "qemu", "with_needs"]

#: Flag → the element of libvirt's <hyperv> that offers it; of those with a dot the last stands inside the first. None:
#: libvirt has no element for it, or has it elsewhere (formatdomain, "Hypervisor features").
LIBVIRT: dict[str, str | None] = {
    "hv-relaxed": "relaxed",
    "hv-vapic": "vapic",
    "hv-spinlocks": "spinlocks",
    "hv-vpindex": "vpindex",
    "hv-runtime": "runtime",
    "hv-crash": None,
    "hv-time": None,
    "hv-synic": "synic",
    "hv-stimer": "stimer",
    "hv-stimer-direct": "stimer.direct",
    "hv-tlbflush": "tlbflush",
    "hv-tlbflush-ext": "tlbflush.extended",
    "hv-tlbflush-direct": "tlbflush.direct",
    "hv-ipi": "ipi",
    "hv-reset": "reset",
    "hv-frequencies": "frequencies",
    "hv-reenlightenment": "reenlightenment",
    "hv-evmcs": "evmcs",
    "hv-emsr-bitmap": "emsr_bitmap",
    "hv-avic": "avic",
    "hv-no-nonarch-coresharing": None,
    "hv-syndbg": None,
    "hv-xmm-input": "xmm_input",
    "hv-passthrough": None,
    "hv-enforce-cpuid": None,
}

#: Elements elsewhere in the domain: where, and what.
ELSEWHERE = {
    "hv-time": ("clock", "<timer name='hypervclock' present='yes'/>"),
    "hv-crash": ("devices", "<panic model='hyperv'/>"),
}

#: Spinlock retries that Windows documents and other guides give; libvirt takes no fewer than 4095.
RETRIES = 0x1FFF

#: Values of flags that are not switches.
VALUES = {"hv-spinlocks": f"={RETRIES:#x}"}


def with_needs(flags: Iterable[str], offered: Collection[str] = ()) -> list[str]:
    """Return the flags and what QEMU demands beside them, in the order of the table, but for those `offered`."""
    wanted: set[str] = set()
    open_ = list(flags)
    while open_:
        flag = flag_by_name(open_.pop())
        if flag is not None and flag.name not in wanted:
            wanted.add(flag.name)
            open_ += flag.needs
    return [flag.name for flag in FLAGS if flag.name in wanted and flag.name not in offered]


def qemu(flags: Iterable[str], *, off: bool = False) -> str:
    """Return what to add to the -cpu option, "…" standing for what it has; with `off` to switch flags off."""
    words = (f"{name}=off" if off else f"{name}{VALUES.get(name, '')}" for name in flags)
    return ",".join(["-cpu …", *words])


def libvirt(flags: Iterable[str], *, off: bool = False) -> str | None:
    """Return the lines of a domain that say so; None where libvirt has none for any of the flags."""
    names = list(flags)
    state = "off" if off else "on"
    within: dict[str, list[str]] = {}
    for name in names:
        element = LIBVIRT.get(name)
        if element is not None:
            parent, _, child = element.partition(".")
            within.setdefault(parent, [])
            within[parent] += [child] if child else []
    lines: list[str] = []
    if within:
        lines += ["<features>", "  <hyperv>"]
        for parent, children in within.items():
            # Switching a part off leaves the whole on.
            own = "on" if children else state
            retries = f" retries='{RETRIES}'" if parent == "spinlocks" and not off else ""
            if children:
                lines += [
                    f"    <{parent} state='{own}'{retries}>",
                    *(f"      <{child} state='{state}'/>" for child in children),
                    f"    </{parent}>",
                ]
            else:
                lines.append(f"    <{parent} state='{own}'{retries}/>")
        lines += ["  </hyperv>", "</features>"]
    for name in names:
        if name in ELSEWHERE and not off:
            place, element = ELSEWHERE[name]
            lines += [f"<{place}>", f"  {element}", f"</{place}>"]
    return "\n".join(lines) or None
