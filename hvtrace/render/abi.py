"""Entries of the interface tables, in words and as objects for scripts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hvtrace.abi.cpuid import BITS, INTERFACE, KVM_FEATURES, LEAVES, VENDOR, Bit, Leaf, bit_name
from hvtrace.abi.exit_reasons import SVM, UNPRINTED, USERSPACE, VMX, VMX_FLAGS, VMX_SILENT_FLAGS
from hvtrace.abi.flags import FLAGS, Flag, flag_by_name
from hvtrace.abi.hypercall import HYPERV_HYPERCALLS, KVM_HYPERCALLS, Hypercall
from hvtrace.abi.hypercall_check import ERRNO, checks_of, statuses_of, xmm_of
from hvtrace.abi.msr import MSRS, by_name
from hvtrace.abi.register import Exit, Gate, Msr
from hvtrace.abi.status import STATUSES, Status, status_name
from hvtrace.render.terminal import wrapped

__all__ = ["TABLES", "Entry", "entries", "find", "lines_of", "listing"]

#: Details are set off by this much.
LABEL = 17


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: what it can be asked for by, its line in a listing, its title and details, and its object."""

    number: int | None
    names: tuple[str, ...]
    line: str
    title: str
    details: tuple[tuple[str, str], ...]
    data: dict[str, Any]

    def is_meant(self, asked: str, number: int | None) -> bool:
        """Whether a person who typed `asked` (as a number: `number`) means this entry."""
        return asked.lower() in self.names if number is None else number == self.number


def entries(table: str) -> list[Entry]:
    """All entries of a table of TABLES, in its order."""
    return _MAKERS[table]()


def find(table: str, asked: str) -> list[Entry]:
    """The entries a number (in any base Python knows) or a name in any case means. Empty: there is none."""
    number = _number(asked)
    if table == "msr" and number is None:
        row = by_name(asked)
        return [] if row is None else [_msr(row)]
    if table == "flag":
        flag = flag_by_name(asked.lower())
        return [] if flag is None else [_flag(flag)]
    found = [entry for entry in entries(table) if entry.is_meant(asked, number)]
    if table == "cpuid":
        if number in (VENDOR, INTERFACE):
            # KVM's own stand there where Hyper-V is not offered.
            found += [_leaf(leaf) for leaf in LEAVES if leaf.number == number + 0x100]
        found += [_bit(bit) for bit in BITS if bit.name.lower() == asked.lower()]
        return found or find("flag", asked)
    return found


def lines_of(entry: Entry) -> list[str]:
    """An entry in full, for people."""
    lines = wrapped(entry.title)
    for label, text in entry.details:
        lines += wrapped(text, f"  {label:<{LABEL - 2}}", " " * LABEL) if label else wrapped(text, "  ")
    return lines


def listing(table: str) -> list[str]:
    """A table for people: a line or two for each entry."""
    return [line for entry in entries(table) for line in wrapped(entry.line, "", "    ")]


def _number(asked: str) -> int | None:
    try:
        return int(asked, 0)
    except ValueError:
        return None


def _gate(gate: Gate) -> str:
    # KVM's own leaf is named by its place beside Hyper-V's.
    place = Gate(KVM_FEATURES, gate.register, gate.bit) if gate.leaf == INTERFACE else gate
    name = bit_name(place)
    return str(gate) if name is None else f"{gate} ({name})"


def _since(since: tuple[int, int] | None) -> str | None:
    return None if since is None else f"{since[0]}.{since[1]}"


def _details(*pairs: tuple[str, str | None]) -> tuple[tuple[str, str], ...]:
    return tuple((label, text) for label, text in pairs if text)


def _msr(row: Msr) -> Entry:
    fields = [
        (
            f"bits {field.low if field.high is None else f'{field.high}:{field.low}'}",
            f"{field.name}: {field.doc or (field.reserved.value if field.reserved else '')}".rstrip(": "),
        )
        for field in row.fields
    ]
    reads = row.kind.value if row.reads is None else f"{row.kind.value}, 0x{row.reads:x}"
    exits = None if row.exits is Exit.NONE else f"KVM_EXIT_{row.exits.name} ({row.exits.value})"
    return Entry(
        row.index,
        (row.name.lower(),),
        f"0x{row.index:08x}  {row.access.value:<2}  {row.scope.value:<4}  {row.name}",
        f"0x{row.index:08x} {row.name}",
        _details(
            ("", row.doc),
            ("guest access", row.access.value),
            ("scope", row.scope.value),
            ("CPUID bit", "none" if row.gate is None else _gate(row.gate)),
            ("after reset", "not a constant" if row.reset is None else f"0x{row.reset:x}"),
            ("a read gives", reads),
            ("a write exits", exits and f"{exits}: {row.exit_when}"),
            ("since kernel", _since(row.since)),
            *fields,
            ("source", row.spec),
        ),
        {
            "index": row.index,
            "name": row.name,
            "doc": row.doc,
            "access": row.access.value,
            "scope": row.scope.value,
            "cpuid": None if row.gate is None else str(row.gate),
            "reset": row.reset,
            "read": row.kind.value,
            "reads": row.reads,
            "exit": None if exits is None else {"reason": row.exits.value, "when": row.exit_when},
            "since": _since(row.since),
            "fields": [
                {
                    "name": field.name,
                    "low": field.low,
                    "high": field.low if field.high is None else field.high,
                    "reserved": None if field.reserved is None else field.reserved.value,
                    "doc": field.doc,
                }
                for field in row.fields
            ],
            "source": row.spec,
        },
    )


def _hypercall(call: Hypercall) -> Entry:
    checks = checks_of(call)
    gates = " and ".join(map(_gate, call.gates))
    note = f"{gates}; {call.gate_note}" if gates and call.gate_note else gates or call.gate_note
    results = ", ".join(_result(call, value) for value in statuses_of(call))
    number = f"{call.code}" if call.is_kvm else f"0x{call.code:04x}"
    kind = "" if call.is_kvm else f"{call.shape.value}, {call.fast.value}"
    return Entry(
        call.code,
        (call.name.lower(),),
        f"{number:<6}  {call.name:<42}  {call.handler.value}",
        f"{number} {call.name}",
        _details(
            ("interface", "KVM" if call.is_kvm else "Hyper-V"),
            ("input", call.input + (" (variable header: the banks)" if call.banks else "")),
            ("with XMM", xmm_of(call)),
            ("output", call.output),
            ("kind", kind),
            ("served by", call.handler.value),
            ("CPUID bits", note or "none"),
            ("since kernel", _since(call.since)),
            *((f"check {n}", _check(call, n - 1)) for n in range(1, len(checks) + 1)),
            ("results", results),
            ("counts", "elements done in bits 43:32 of the result" if call.counts else None),
        ),
        {
            "interface": "kvm" if call.is_kvm else "hyperv",
            "code": call.code,
            "name": call.name,
            "shape": call.shape.value,
            "fast": call.fast.value,
            "input": call.input,
            "xmm": xmm_of(call),
            "banks": call.banks,
            "output": call.output,
            "served_by": call.handler.value,
            "cpuid": [str(gate) for gate in call.gates],
            "cpuid_note": call.gate_note,
            "since": _since(call.since),
            "checks": [{"when": check.when, "gives": check.gives, "by": check.by} for check in checks],
            "results": list(statuses_of(call)),
        },
    )


def _check(call: Hypercall, n: int) -> str:
    check = checks_of(call)[n]
    gives = check.gives if isinstance(check.gives, str) else _result(call, check.gives)
    return f"{check.when}: {gives}" + (f" ({check.by})" if check.by else "")


def _result(call: Hypercall, value: int) -> str:
    if call.is_kvm:
        return f"{value} ({ERRNO[value]})" if value else "0"
    return f"0x{value:x} {(status_name(value) or '').removeprefix('HV_STATUS_')}"


def _leaf(leaf: Leaf) -> Entry:
    bits = [bit for bit in BITS if bit.gate.leaf == leaf.number]
    return Entry(
        leaf.number,
        (leaf.name.lower(),),
        f"0x{leaf.number:08x}  {leaf.name}: {leaf.doc}",
        f"0x{leaf.number:08x} {leaf.name}",
        _details(
            ("", leaf.doc),
            *((register.upper(), text) for register, text in leaf.registers),
            *((f"{bit.gate.register.upper()}[{bit.gate.bit}]", _bit_text(bit)) for bit in bits),
        ),
        {
            "leaf": leaf.number,
            "name": leaf.name,
            "doc": leaf.doc,
            "registers": dict(leaf.registers),
            "bits": [_bit_data(bit) for bit in bits],
        },
    )


def _flags_of(bit: Bit) -> list[str]:
    return [flag.name for flag in FLAGS if bit.gate in flag.sets]


def _bit_text(bit: Bit) -> str:
    flags = ", ".join(_flags_of(bit))
    return f"{bit.name}  {flags}" if flags else bit.name


def _bit_data(bit: Bit) -> dict[str, Any]:
    gate = bit.gate
    return {"register": gate.register, "bit": gate.bit, "name": bit.name, "flags": _flags_of(bit)}


def _bit(bit: Bit) -> Entry:
    opened = [row.name for row in MSRS if row.gate == bit.gate]
    calls = [call.name for call in HYPERV_HYPERCALLS if bit.gate in call.gates]
    title = f"{bit.gate} {bit.name}"
    return Entry(
        None,
        (bit.name.lower(),),
        title,
        title,
        _details(
            ("set by", ", ".join(_flags_of(bit)) or "no flag"),
            ("MSRs", ", ".join(opened)),
            ("hypercalls", ", ".join(calls)),
        ),
        {"leaf": bit.gate.leaf, **_bit_data(bit), "msrs": opened, "hypercalls": calls},
    )


def _flag(flag: Flag) -> Entry:
    return Entry(
        None,
        (flag.name, *flag.aliases),
        f"{flag.name:<26}  {flag.doc}",
        flag.name,
        _details(
            ("", flag.doc),
            *(("sets", _gate(gate)) for gate in flag.sets),
            ("needs", ", ".join(flag.needs)),
            ("opens", flag.gates),
            ("also spelled", ", ".join(flag.aliases)),
        ),
        {
            "name": flag.name,
            "doc": flag.doc,
            "sets": [str(gate) for gate in flag.sets],
            "needs": list(flag.needs),
            "opens": flag.gates,
            "aliases": list(flag.aliases),
            "enables_hyperv": flag.hyperv,
        },
    )


def _status(status: Status) -> Entry:
    return Entry(
        status.value,
        (status.name.lower(), status.name.lower().removeprefix("hv_status_")),
        f"0x{status.value:02x}  {status.name:<34}  {status.given}",
        f"0x{status.value:02x} {status.name}",
        (("given by", status.given),),
        {"value": status.value, "name": status.name, "given_by": status.given},
    )


def _exits() -> list[Entry]:
    found = []
    for table, reasons in (("VMX", VMX), ("SVM", SVM), ("userspace", USERSPACE)):
        for value, name in reasons.items():
            found.append(_exit(table, value, name, printed=value not in UNPRINTED[table]))
    found += [_exit("VMX flag", value, name, printed=True) for value, name in VMX_FLAGS.items()]
    return found + [_exit("VMX flag", value, name, printed=False) for value, name in VMX_SILENT_FLAGS.items()]


def _exit(table: str, value: int, name: str, *, printed: bool) -> Entry:
    number = f"{value}" if table == "userspace" else f"0x{value:x}"
    note = "" if printed else "  (printed as a number)"
    return Entry(
        value,
        (name.lower(),),
        f"{table:<9}  {number:<10}  {name}{note}",
        f"{table} {number} {name}",
        (("in traces", "by name" if printed else "as a hexadecimal number"),),
        {"table": table, "value": value, "name": name, "printed": printed},
    )


_MAKERS: dict[str, Callable[[], list[Entry]]] = {
    "msr": lambda: [_msr(row) for row in MSRS],
    "hypercall": lambda: [_hypercall(call) for call in (*HYPERV_HYPERCALLS, *KVM_HYPERCALLS)],
    "cpuid": lambda: [_leaf(leaf) for leaf in LEAVES],
    "flag": lambda: [_flag(flag) for flag in FLAGS],
    "status": lambda: [_status(status) for status in STATUSES],
    "exit": _exits,
}

#: The tables one can look things up in.
TABLES: tuple[str, ...] = tuple(_MAKERS)
