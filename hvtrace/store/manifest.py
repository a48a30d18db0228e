"""manifest.json: what a store holds, in words a person and a script can read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from hvtrace import __version__
from hvtrace.errors import InputError

__all__ = ["FORMAT_VERSION", "MANIFEST", "Manifest"]

#: Raised by one where a reader of the former version would misread the tables.
FORMAT_VERSION = 1

MANIFEST = "manifest.json"


@dataclass(slots=True)
class Manifest:
    """The manifest's keys, as in the file.

    `sources`: per recording name, size (bytes), format, clock, facts, damage ([{offset, message, cut}]), damaged
    (how many), corrupt (how many of them are more than a file that ends early), not_understood ({count, samples}), and
    where its stamps were brought onto another clock aligned ({offset_ns, drift, since_ns, residual_ns, pairs, how,
    clock, lost}).
    `clock`: name, unit of `ts_ns` ("ns" or "ticks"), raw (whether tables have `ts_raw`). `events`: rows by tracepoint.
    `decoded`: rows by event of the tables that say what markers in the recording mean. `tracepoints`: names of all
    events whose formats the recording carries. `lost`: [{cpu, from_ns, to_ns, count}], null where not known. `time`:
    first_ns, last_ns, duration_ns. `vms`: [{vm, name, vcpus: [{vcpu, tids}], first_seq, last_seq, tgid, certain}].
    `host`: facts from metadata beside the recording.
    """

    sources: list[dict[str, Any]] = field(default_factory=list)
    clock: dict[str, Any] = field(default_factory=dict)
    kernel: str | None = None
    host: dict[str, Any] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    decoded: dict[str, int] = field(default_factory=dict)
    total: int = 0
    tracepoints: list[str] = field(default_factory=list)
    lost: list[dict[str, Any]] = field(default_factory=list)
    time: dict[str, int | None] = field(default_factory=dict)
    vms: list[dict[str, Any]] = field(default_factory=list)
    format_version: int = FORMAT_VERSION
    hvtrace: str = __version__

    def write(self, directory: Path) -> None:
        """Write manifest.json into `directory`."""
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False, sort_keys=False)
        (directory / MANIFEST).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """Read manifest.json of a store. Raises InputError where it is missing, damaged or of another version."""
        path = directory / MANIFEST
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(path, error.strerror or str(error)) from error
        except ValueError as error:
            raise InputError(path, f"not JSON: {error}") from error
        if not isinstance(found, dict) or "format_version" not in found:
            raise InputError(path, "not a manifest of an hvtrace store")
        if found["format_version"] != FORMAT_VERSION:
            raise InputError(
                path, f"store format {found['format_version']!r}; this hvtrace reads format {FORMAT_VERSION}"
            )
        known = {f.name for f in fields(cls)}
        return cls(**{key: value for key, value in found.items() if key in known})
