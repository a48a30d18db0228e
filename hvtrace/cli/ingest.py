"""`hvtrace ingest`: recording → store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["default_store", "ingest"]

#: Endings that say how a file is packed or what kind it is; a store's name does without them.
ENDINGS = (".zst", ".gz", ".xz", ".dat", ".data", ".txt", ".log", ".out")


def default_store(recording: Path) -> Path:
    """Name of the store of `recording` where none is given: NAME.hvt in the current directory."""
    name = recording.name
    while (ending := Path(name).suffix) in ENDINGS and ending:
        name = name.removesuffix(ending)
    return Path(f"{name or recording.name}.hvt")


def ingest(
    recordings: Annotated[
        list[Path],
        typer.Argument(
            metavar="REC",
            help="trace.dat, perf.data, or text of ftrace, trace-cmd report or perf script; gzip, zstd, xz or plain. "
            "Several: the buffers of one run, merged.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="STORE", help="Default: NAME.hvt in this directory."),
    ] = None,
    qemu: Annotated[
        list[Path] | None,
        typer.Option(
            "--qemu",
            metavar="FILE",
            help="QEMU's own trace of the run (log or simpletrace), brought onto the same clock. May stand among REC.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the store if there is one.")] = False,
) -> None:
    """Read a recording into a store of Arrow tables.

    The store is a directory of Parquet files, one a tracepoint, and a manifest.json; anything that reads Parquet
    reads it. Facts about the host are taken from NAME.meta.json or meta.json beside the recording.

    Examples:

      hvtrace ingest trace.dat

      hvtrace ingest perf.data.zst -o last-night.hvt --force

      hvtrace ingest trace.dat --qemu qemu-trace.log
    """
    from hvtrace.pipeline.ingest import ingest as run
    from hvtrace.render.progress import bar
    from hvtrace.render.summary import after_ingest

    target = output or default_store(recordings[0])
    with bar() as progress:
        manifest = run([*recordings, *(qemu or ())], target, force=force, progress=progress)
    after_ingest(manifest, target)
