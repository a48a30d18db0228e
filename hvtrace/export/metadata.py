"""Facts about the trace as a whole: what was recorded, where, with which flags, and what made the file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import astuple
from typing import Any

import numpy as np
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import TracePacket

from hvtrace import __version__
from hvtrace.export.interning import Interned
from hvtrace.export.packets import SEQUENCE, Argument, Kind, begins, ends, framed
from hvtrace.export.streams import Which
from hvtrace.export.texts import plain
from hvtrace.export.wire import Messages
from hvtrace.pipeline.metadata import cpu_options
from hvtrace.store import Manifest, Store
from hvtrace.store.manifest import MANIFEST

__all__ = ["metadata_packets", "source_slices"]

Facts = dict[str, str | int]

#: Recordings of one store that are shown, and facts that one recording states, or module parameters.
MOST_SOURCES = 20
MOST_FACTS = 100

#: Key of the manifest's `host` → name.
_HOST = (
    ("kernel", "kernel_version"),
    ("cpu", "host_cpu"),
    ("cpus", "host_cpus"),
    ("clocksource", "clocksource"),
    ("tsc_khz", "tsc_khz"),
    ("qemu_version", "qemu_version"),
)

#: Characters of a name.
_NAME = 60

_NUMBER = re.compile(r"-?[0-9]{1,18}")


def metadata_packets(store: Store, which: Which) -> bytes:
    """Framed packets with the facts that Perfetto shows on the page "Info and stats" and in its table `metadata`.

    That page (v52) knows only the facts of Android, Chrome and the kernel. Chrome's may have any names: they are shown
    as "cr-" and the name.
    """
    manifest = store.manifest
    packets = [TracePacket(trusted_packet_sequence_id=SEQUENCE) for _ in range(3)]
    info = packets[0].system_info
    info.tracing_service_version = f"hvtrace {__version__}"
    info.utsname.sysname = "Linux"
    if manifest.kernel:
        info.utsname.release = plain(manifest.kernel)
    if isinstance(version := manifest.host.get("kernel"), str):
        # As `uname -r -v` says it.
        info.utsname.version = plain(version.removeprefix(f"{manifest.kernel} "))
    if machine := _machine(manifest):
        info.utsname.machine = machine
    identity = _identity(store, which)
    packets[1].trace_uuid.msb = int.from_bytes(identity[:8], "big", signed=True)
    packets[1].trace_uuid.lsb = int.from_bytes(identity[8:16], "big", signed=True)
    names = ", ".join(name for name, _ in _sources(manifest))
    shown: Facts = {"recording": plain(names), **_about(manifest)}
    for name, value in shown.items():
        entry = packets[2].chrome_events.metadata.add(name=name.replace("_", " "))
        if isinstance(value, int):
            entry.int_value = value
        else:
            entry.string_value = value
    return b"".join(framed(packet.SerializeToString()) for packet in packets)


def source_slices(
    manifest: Manifest, track: int, names: Interned, first: int, last: int
) -> list[tuple[Messages, int]]:
    """Slices from `first` to `last`, one a recording, named after it, with all that is known of it as arguments.

    Returns messages of one slice's begin or end each, and keys by which they are ordered.
    """
    found = []
    sources = _sources(manifest)
    about, parameters = _about(manifest), dict(list(_parameters(manifest.host).items())[:MOST_FACTS])
    for depth, (name, source) in enumerate(sources):
        arguments = []
        for fact, value in (about | source | parameters).items():
            number = isinstance(value, int)
            held = np.array([value if number else names.string(str(value))], np.int64)
            arguments.append(Argument(names.argument(fact), Kind.INT if number else Kind.STRING, held))
        where = (np.array([track], np.uint64), np.array([names.event(name)], np.uint64))
        found.append(
            (begins(np.array([first], np.int64), *where, names.category("source"), arguments), depth)
        )
        found.append((ends(np.array([last], np.int64), where[0]), 2 * len(sources) - depth))
    return found


def _sources(manifest: Manifest) -> list[tuple[str, Facts]]:
    """Name of each recording, and what its file says of itself."""
    found = []
    for source in manifest.sources[:MOST_SOURCES]:
        facts = source.get("facts")
        damage = source.get("damage")
        own: Facts = {"format": plain(source.get("format")), "size_bytes": _whole(source.get("size"))}
        own |= {"damage": _whole(source.get("damaged"))}
        if isinstance(damage, list) and damage and isinstance(damage[0], dict):
            own["first_damage"] = plain(f"byte {damage[0].get('offset')}: {damage[0].get('message')}")
        for name, value in list(facts.items())[:MOST_FACTS] if isinstance(facts, dict) else ():
            own.setdefault(plain(name, _NAME).replace(" ", "_"), plain(value))
        found.append((plain(source.get("name") or "recording", 200), own))
    return found or [("recording", {})]


def _about(manifest: Manifest) -> Facts:
    """What is known of host, guests and recording, by name; what is not known is left out."""
    host = manifest.host
    lost = [row.get("count") for row in manifest.lost]
    found: Facts = {"hvtrace": __version__, "host_kernel": plain(manifest.kernel or "not known")}
    found |= {name: _value(host[key]) for key, name in _HOST if key in host}
    if machine := _machine(manifest):
        found["machine"] = machine
    found["trace_clock"] = plain(manifest.clock.get("name") or "not known")
    found["clock_unit"] = plain(manifest.clock.get("unit"))
    if options := dict.fromkeys(cpu_options(host)):
        found["guest_flags"] = plain("; ".join(f"-cpu {option}" for option in options))
    found["vms"] = len(manifest.vms)
    found["events"] = manifest.total
    # Of an unknown number one is certain.
    count = sum(1 if n is None else n for n in lost)
    found["lost_events"] = f"at least {count}" if None in lost else _whole(count)
    found["losses"] = len(lost)
    return found


def _parameters(host: Mapping[str, Any]) -> Facts:
    """Parameters of the host's modules: "kvm_halt_poll_ns"."""
    modules = host.get("module_parameters")
    return {
        plain(f"{module}_{name}", _NAME): _value(value)
        for module, own in (modules.items() if isinstance(modules, dict) else ())
        if isinstance(own, dict)
        for name, value in own.items()
    }


def _machine(manifest: Manifest) -> str | None:
    """The host's architecture, where a recording states it."""
    for source in manifest.sources:
        facts = source.get("facts")
        if isinstance(facts, dict):
            words = str(facts.get("arch") or facts.get("uname") or "").split()
            if words:
                return plain(words[-1], _NAME)
    return None


def _value(value: object) -> str | int:
    """A fact as a number where it is one, without the label that /proc/cpuinfo puts before it."""
    text = plain(value)
    if _NUMBER.fullmatch(text):
        return int(text)
    return text.partition(":")[2].strip() if text.startswith("model name") else text


def _whole(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < 1 << 63 else 0


def _identity(store: Store, which: Which) -> bytes:
    """Sixteen bytes that differ where the timeline does: recording, verdicts, part, version."""
    part = [sorted(value) if isinstance(value, frozenset) else value for value in astuple(which)]
    digest = hashlib.sha256(f"hvtrace {__version__} {part}".encode())
    for path in (store.path / MANIFEST, store.file("divergences")):
        if path.exists():
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.digest()[:16]
