"""Where a timeline goes: a file that appears when it is whole, or standard output."""

from __future__ import annotations

import gzip
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from hvtrace.errors import InputError
from hvtrace.export.perfetto import write_trace
from hvtrace.export.streams import Which
from hvtrace.store import Store

__all__ = ["Written", "default_output", "export_file"]

Progress = Callable[[int, int, str], None]

SUFFIX = ".pftrace"

#: Endings of stores and recordings that the timeline's name does without.
_ENDINGS = (".hvt", ".zst", ".gz", ".xz", ".dat", ".data", ".txt")


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: the path (None: standard output), slices, and bytes in the file."""

    path: Path | None
    slices: int
    size: int


def default_output(source: Path, compress: bool) -> Path:
    """Name of the timeline of `source` where none is given: NAME.pftrace in the current directory."""
    name = source.resolve().name
    while (ending := Path(name).suffix) in _ENDINGS and ending:
        name = name.removesuffix(ending)
    return Path(f"{name}{SUFFIX}" + (".gz" if compress else ""))


def export_file(
    store: Store,
    output: Path | None,
    source: Path,
    which: Which | None = None,
    *,
    compress: bool = False,
    progress: Progress | None = None,
) -> Written:
    """Write the timeline of `store` to `output` (None: named after `source`; `-`: standard output).

    Raises InputError where `output` cannot be written, is no regular file, or is `source` itself, and where the store
    has no such VM or vCPU; then nothing is left behind.
    """
    _check(store, which or Which())
    if output is not None and str(output) == "-":
        out = cast(BinaryIO, sys.stdout.buffer)
        return Written(None, _write(store, out, which, compress, progress), 0)
    target = output or default_output(source, compress)
    if target.exists():
        if not target.is_file():
            raise InputError(target, "exists and is no regular file; it is left alone")
        if source.exists() and target.samefile(source):
            raise InputError(target, "is the recording itself; choose another name with -o")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name[:80]}.partial-", dir=target.parent)
    except OSError as error:
        raise InputError(target, f"cannot be written: {error.strerror}") from error
    try:
        with open(handle, "wb") as out:
            slices = _write(store, out, which, compress, progress)
        size = os.path.getsize(name)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
    return Written(target, slices, size)


def _check(store: Store, which: Which) -> None:
    vms = {vm["vm"]: [vcpu["vcpu"] for vcpu in vm["vcpus"]] for vm in store.manifest.vms}
    if which.vm is not None and which.vm not in vms:
        raise InputError(store.path, f"has no VM {which.vm}; it has {_listed(vms)}")
    vcpus = {v for vm, own in vms.items() if which.vm in (None, vm) for v in own}
    if which.vcpu is not None and which.vcpu not in vcpus:
        raise InputError(store.path, f"has no vCPU {which.vcpu}; it has {_listed(vcpus)}")


def _listed(numbers: Iterable[int]) -> str:
    several = sorted(numbers)
    return ", ".join(map(str, several[:20])) + (" …" if len(several) > 20 else "") or "none"


def _write(
    store: Store, out: BinaryIO, which: Which | None, compress: bool, progress: Progress | None
) -> int:
    if not compress:
        return write_trace(store, out, which, progress=progress)
    # No name and no time in the header: the same store gives the same file.
    with gzip.GzipFile(filename="", mode="wb", fileobj=out, compresslevel=6, mtime=0) as packed:
        return write_trace(store, cast(BinaryIO, packed), which, progress=progress)
