"""Entries of the interface tables, in words."""

from __future__ import annotations

from hvtrace.abi.cpuid import BITS, FLAGS, LEAVES, bit_name, flag_by_name
from hvtrace.abi.hypercall import HYPERV_HYPERCALLS, KVM_HYPERCALLS, Hypercall
from hvtrace.abi.msr import MSRS, by_index, by_name
from hvtrace.abi.register import Exit, Gate, Msr
from hvtrace.abi.status import STATUSES

__all__ = ["lines_of"]


def lines_of(table: str, entry: str | None) -> list[str]:
    """Lines for one entry of a table ("msr", "hypercall", "cpuid", "status"), or one line each for all of it.

    `entry` is a number in any base Python knows, or a name in any case. Empty where there is no such entry.
    """
    number = _number(entry)
    if table == "msr":
        if entry is None:
            return [f"0x{m.index:08x}  {m.access.value:<2} {m.scope.value:<4} {m.name}" for m in MSRS]
        row = by_name(entry) if number is None else by_index(number)
        return [] if row is None else _msr(row)
    if table == "hypercall":
        calls = [call for call in (*HYPERV_HYPERCALLS, *KVM_HYPERCALLS) if _is(call, entry, number)]
        if entry is None:
            return [f"0x{call.code:04x}  {call.handler.value:<28} {call.name}" for call in calls]
        return [line for call in calls for line in _hypercall(call)]
    if table == "cpuid":
        return _cpuid(entry, number)
    chosen = [s for s in STATUSES if entry is None or s.value == number or s.name.lower() == entry.lower()]
    return [f"0x{s.value:02x}  {s.name:<36} {s.given}" for s in chosen]


def _number(entry: str | None) -> int | None:
    try:
        return None if entry is None else int(entry, 0)
    except ValueError:
        return None


def _is(call: Hypercall, entry: str | None, number: int | None) -> bool:
    return entry is None or call.code == number or call.name.lower() == entry.lower()


def _gate(gate: Gate) -> str:
    name = bit_name(gate)
    return str(gate) if name is None else f"{gate} ({name})"


def _msr(row: Msr) -> list[str]:
    lines = [
        f"0x{row.index:08x} {row.name}",
        f"  {row.doc}",
        f"  guest access   {row.access.value}",
        f"  scope          {row.scope.value}",
        f"  CPUID bit      {'none' if row.gate is None else _gate(row.gate)}",
        f"  after reset    {'not a constant' if row.reset is None else f'0x{row.reset:x}'}",
        f"  a read gives   {row.kind.value}{'' if row.reads is None else f', 0x{row.reads:x}'}",
    ]
    if row.exits is not Exit.NONE:
        lines.append(f"  a write exits  KVM_EXIT_{row.exits.name} ({row.exits.value}): {row.exit_when}")
    if row.since is not None:
        lines.append(f"  since kernel   {row.since[0]}.{row.since[1]}")
    for field in row.fields:
        bits = f"{field.low}" if field.high is None else f"{field.high}:{field.low}"
        note = field.doc if field.reserved is None else field.reserved.value
        lines.append(f"  bits {bits:<9} {field.name:<24} {note}".rstrip())
    return [*lines, f"  source         {row.spec}"]


def _hypercall(call: Hypercall) -> list[str]:
    gates = " and ".join(_gate(gate) for gate in call.gates) or call.gate_note or "none"
    lines = [
        f"0x{call.code:04x} {call.name}",
        f"  input          {call.input}{' (variable header: banks)' if call.banks else ''}",
        f"  kind           {call.shape.value}, {call.fast.value}",
        f"  served by      {call.handler.value}",
        f"  CPUID bits     {gates}",
    ]
    if call.since is not None:
        lines.append(f"  since kernel   {call.since[0]}.{call.since[1]}")
    return lines


def _cpuid(entry: str | None, number: int | None) -> list[str]:
    if entry is None:
        leaves = [f"0x{leaf.number:08x}  {leaf.name}: {leaf.doc}" for leaf in LEAVES]
        return [*leaves, "", *(f"{flag.name:<28} {flag.doc}" for flag in FLAGS)]
    flag = flag_by_name(entry)
    if flag is not None:
        lines = [flag.name, f"  {flag.doc}"]
        lines += [f"  sets           {_gate(gate)}" for gate in flag.sets]
        if flag.needs:
            lines.append(f"  needs          {', '.join(flag.needs)}")
        if flag.gates:
            lines.append(f"  opens          {flag.gates}")
        if flag.aliases:
            lines.append(f"  also           {', '.join(flag.aliases)}")
        return lines
    leaves = [f"0x{leaf.number:08x} {leaf.name}: {leaf.doc}" for leaf in LEAVES if leaf.number == number]
    bits = [bit for bit in BITS if bit.gate.leaf == number or bit.name.lower() == entry.lower()]
    return [*leaves, *(f"  {bit.gate}  {bit.name}" for bit in bits)]
