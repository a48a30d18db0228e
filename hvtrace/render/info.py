"""`hvtrace info` for people and for scripts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from textwrap import wrap
from typing import Any

from hvtrace.render.terminal import count, duration, plural, safe, stamp, styled

__all__ = ["lines", "print_json", "print_text"]

WIDTH = 79
#: VMs described one by one; a recording of a test suite may hold dozens.
MAX_VMS = 8
#: Losses and damaged places listed one by one.
MAX_LISTED = 10
BAR = 20


def print_json(answer: dict[str, Any]) -> None:
    """Print the answer as one JSON object."""
    print(json.dumps(answer, indent=1, ensure_ascii=False))


def print_text(answer: dict[str, Any]) -> None:
    """Print the answer for a person."""
    print("\n".join(lines(answer)))


def lines(answer: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the text form, at most 79 wide."""
    yield from _head(answer)
    yield ""
    for vm in answer["vms"][:MAX_VMS]:
        yield from _vm(vm)
    if len(answer["vms"]) > MAX_VMS:
        yield f"… and {plural(len(answer['vms']) - MAX_VMS, 'more VM')} (all: --output-format json)"
    if not answer["vms"]:
        yield "No vCPU thread was seen."
    yield ""
    yield from _events(answer)
    yield from _trouble(answer)


def _head(answer: dict[str, Any]) -> Iterator[str]:
    for source in answer["sources"]:
        size = f"{count(source['size'])} bytes"
        yield f"{styled('Recording', 'bold')}  {safe(source['name'])}, {source['format']}, {size}"
    clock = answer["clock"]
    span = answer["duration_ns"]
    unit = "" if clock["unit"] == "ns" else " (ticks: their frequency is not known)"
    yield f"{styled('Kernel', 'bold')}     {safe(str(answer['kernel'] or 'not known'))}"
    if clock["unit"] == "ns":
        times = f"{duration(span)}, from {stamp(answer['first_ns'])} to {stamp(answer['last_ns'])}"
    else:
        times = f"{count(span or 0)} ticks"
    yield f"{styled('Time', 'bold')}       {times}, clock {safe(clock['name'])}{unit}"
    yield f"{styled('Events', 'bold')}     {count(answer['total'])}"


def _vm(vm: dict[str, Any]) -> Iterator[str]:
    name = f" {safe(vm['name'])}" if vm["name"] else ""
    guess = "" if vm["certain"] else " (threads grouped by their order alone)"
    threads = ", ".join(
        f"vCPU {v['vcpu']} = thread {' '.join(str(t) for t in v['tids'])}" for v in vm["vcpus"]
    )
    yield from _wrapped(f"{styled('VM ' + str(vm['vm']), 'bold')}{name}: {threads}{guess}", "      ")
    offered = vm["offered"]
    if offered is None:
        yield "  offered  not known: its CPUID reads are not in the recording"
    else:
        yield from _wrapped(f"  offered  {' '.join(offered) or 'no Hyper-V enlightenments'}", " " * 11)
    for kind, label in (("msrs", "MSRs    "), ("hypercalls", "calls   ")):
        if found := vm["used"][kind]:
            listed = ", ".join(f"{safe(name)} {count(number)}" for name, number in list(found.items())[:12])
            more = f", … ({len(found)} in all)" if len(found) > 12 else ""
            yield from _wrapped(f"  {label} {listed}{more}", " " * 11)


def _wrapped(text: str, indent: str) -> Iterator[str]:
    yield from wrap(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)


def _events(answer: dict[str, Any]) -> Iterator[str]:
    most = max(answer["events"].values(), default=1)
    width = min(max((len(name) for name in answer["events"]), default=10), 40)
    for name, number in answer["events"].items():
        share = "█" * max(round(BAR * number / most), 0)
        yield f"  {safe(name, width):{width}}  {count(number):>12}  {share}".rstrip()


def _trouble(answer: dict[str, Any]) -> Iterator[str]:
    lost = answer["lost"]
    if lost:
        yield ""
        yield styled(f"Lost while recording, in {plural(len(lost), 'place')}:", "yellow")
        for loss in lost[:MAX_LISTED]:
            number = "events" if loss["count"] is None else plural(loss["count"], "event")
            where = "" if loss["cpu"] is None else f" on CPU {loss['cpu']}"
            start = "the start" if loss["from_ns"] is None else stamp(loss["from_ns"])
            end = "the end" if loss["to_ns"] is None else stamp(loss["to_ns"])
            yield f"  {number}{where} between {start} and {end}"
        if len(lost) > MAX_LISTED:
            yield f"  … {len(lost) - MAX_LISTED} more (all: --output-format json)"
    for source in answer["sources"]:
        if source["damaged"]:
            yield ""
            yield styled(
                f"{safe(source['name'])} is damaged in {plural(source['damaged'], 'place')}:", "yellow"
            )
            for damage in source["damage"][:MAX_LISTED]:
                yield from _wrapped(f"  offset {damage['offset']:#x}: {safe(damage['message'])}", "    ")
        missed = source["not_understood"]
        if missed["count"]:
            yield ""
            yield styled(
                f"Not understood in {safe(source['name'])}: {count(missed['count'])}, such as", "yellow"
            )
            yield from (f"  {safe(sample, WIDTH - 2)}" for sample in missed["samples"][:5])
