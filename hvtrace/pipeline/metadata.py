"""What was noted about the host beside a recording: NAME.meta.json, or meta.json in the same directory."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

__all__ = ["cpu_option", "cpu_options", "find_metadata", "host_facts", "qemu_command", "tsc_khz_of"]

#: A metadata file is a few KiB, with a console log perhaps a few hundred.
MAX_SIZE = 16 << 20

#: Keys of a metadata file → keys of the manifest's `host`.
KEYS: tuple[tuple[str, str], ...] = (
    ("kernel", "kernel"),
    ("host_clocksource", "clocksource"),
    ("host_tsc_khz", "tsc_khz"),
    ("host_cpus", "cpus"),
    ("host_cpu", "cpu"),
    ("module_parameters", "module_parameters"),
    ("qemu_version", "qemu_version"),
    ("qemu_command", "qemu_command"),
    ("vms", "vms"),
)

#: The -cpu option in a command line.
_CPU = re.compile(r"(?:^|\s)-cpu[=\s]+['\"]?([^\s'\"]+)")


def find_metadata(recording: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the metadata beside `recording`, empty where there is none or none that can be read."""
    path = Path(recording)
    names = [f"{path.name}.meta.json"]
    names += [f"{path.name.removesuffix(''.join(path.suffixes[-n:]))}.meta.json" for n in (1, 2, 3)]
    for candidate in (*(path.with_name(name) for name in names if name), path.with_name("meta.json")):
        try:
            if candidate.stat().st_size <= MAX_SIZE:
                found = json.loads(candidate.read_text(encoding="utf-8", errors="replace"))
                if isinstance(found, dict):
                    return found
        except (OSError, ValueError, RecursionError):
            continue
    return {}


def host_facts(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return what the manifest's `host` keeps of a metadata file."""
    return {ours: metadata[theirs] for theirs, ours in KEYS if metadata.get(theirs) not in (None, "")}


def tsc_khz_of(metadata: dict[str, Any]) -> int | None:
    """Frequency of the host's TSC in kHz, where the metadata has a sensible one."""
    try:
        khz = int(str(metadata.get("host_tsc_khz", "")).strip())
    except ValueError:
        return None
    return khz if 10_000 <= khz <= 100_000_000 else None


def qemu_command(host: dict[str, Any]) -> str:
    """The command line that a manifest's `host` notes, of one VM or of several; empty where there is none."""
    command = host.get("qemu_command")
    if isinstance(command, list):
        return " ".join(map(str, command))
    return command if isinstance(command, str) else ""


def cpu_options(host: dict[str, Any]) -> list[str]:
    """The -cpu options of that command line, in order: "host,hv-time,hv-synic"."""
    return _CPU.findall(qemu_command(host))


def cpu_option(host: dict[str, Any], vms: int) -> str | None:
    """The -cpu option that each of a recording's `vms` VMs was started with; None where that is not known.

    VMs with different options cannot be told apart, nor is it known which one a single command line is about.
    """
    found = cpu_options(host)
    return found[0] if len(set(found)) == 1 and len(found) >= vms else None
