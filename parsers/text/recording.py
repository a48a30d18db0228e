"""A text recording: blocks of whole lines, read one after the other, each a window."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO

import pyarrow.compute as pc

from hvtrace.errors import InputError
from hvtrace.parsers.recording import Clock, Damage, Lost, NotUnderstood, Progress, Source, Threads, Window
from hvtrace.parsers.source import ENDS, fault_of
from hvtrace.parsers.text.block import Block, BlockReader, Stamps
from hvtrace.parsers.text.sniff import counts_cycles, dialect_of, sniff_text, stamps_of

__all__ = ["StreamFactory", "TextRecording", "blocks", "open_text"]

#: Gives a new stream of the recording's decompressed bytes, from the start, each time it is called.
StreamFactory = Callable[[], BinaryIO]

#: Bytes of text in one window.
BLOCK = 16 << 20
#: A line longer than this is cut into pieces.
LONGEST_LINE = 1 << 20
#: Bytes looked at to tell what the text is.
HEAD = 1 << 16

#: Comments of perf script --header: their label, and the fact's name.
_HEADER_FACTS = {
    "os release": "kernel",
    "hostname": "hostname",
    "perf version": "perf version",
    "cmdline": "cmdline",
}


def open_text(
    path: str | os.PathLike[str], stream_factory: StreamFactory, tsc_khz: int | None = None
) -> TextRecording:
    """Open the text of ftrace, trace-cmd report or perf script.

    `stream_factory` gives a new stream of its decompressed bytes each time. `tsc_khz` is the TSC's frequency: stamps
    that are ticks are converted with it, if they advance as a TSC does. Raises InputError where the text is none of
    these.
    """
    with stream_factory() as stream:
        head = stream.read(HEAD)
    kind = sniff_text(head)
    if kind is None:
        first = head.split(b"\n", 1)[0][:80].decode("utf-8", "replace")
        raise InputError(path, f"no event was found in this text; it begins with {first!r}")
    return TextRecording(path, kind, stream_factory, head, tsc_khz)


def blocks(stream: BinaryIO, size: int) -> Iterator[bytes]:
    """The stream in blocks of about `size` bytes, cut at line ends (an endless line is cut anywhere)."""
    rest = b""
    while data := stream.read(size):
        data = rest + data if rest else data
        cut = data.rfind(b"\n") + 1
        if not cut and len(data) < max(LONGEST_LINE, size):
            rest = data
            continue
        cut = cut or len(data)
        rest = data[cut:]
        yield data[:cut]
    if rest:
        yield rest


#: Blocks read at the same time.
READERS = 2


class TextRecording:
    """Implements `hvtrace.parsers.recording.Recording`."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        kind: str,
        stream_factory: StreamFactory,
        head: bytes,
        tsc_khz: int | None,
    ) -> None:
        self._open = stream_factory
        self._dialect = dialect_of(kind)
        self._stamps = self._tell_stamps(kind, head)
        self.clock = Clock("unknown", "ticks" if self._stamps.ticks else "ns")
        if self._stamps.ticks and tsc_khz and counts_cycles(head, kind):
            self._stamps = Stamps(ticks=True, tsc_khz=tsc_khz)
            self.clock = Clock("x86-tsc", "ns", raw=True)
        self.source = Source(os.fspath(path), os.stat(path).st_size if os.path.exists(path) else 0, kind)
        self.kernel: str | None = None
        self.facts: dict[str, str] = {}
        self._clear()

    def _clear(self) -> None:
        self.threads = Threads()
        self.damage: list[Damage] = []
        self.not_understood = NotUnderstood()
        #: Instruction set of the host (1 VMX, 2 SVM), once an exit has told it.
        self._isa: int | None = None

    def _tell_stamps(self, kind: str, head: bytes) -> Stamps:
        stamps = stamps_of(head, kind)
        if stamps is not None:
            return stamps
        with self._open() as stream:
            for block in blocks(stream, 1 << 20):
                if (stamps := stamps_of(block, kind)) is not None:
                    return stamps
        return Stamps(ticks=True)

    def close(self) -> None:
        """Nothing is held open between iterations."""

    def windows(self, progress: Progress | None = None) -> Iterator[Window]:
        """Yield one window a block. Raises InputError where no line at all is an event."""
        self._clear()
        joints = _Joints()
        line, offset, events = 0, 0, 0
        with self._open() as stream:
            for size, block in self._read(stream):
                self._note(block, line)
                line += block.lines
                offset += size
                events += block.events
                window = joints.window(block)
                if progress is not None:
                    progress(offset)
                if window is not None:
                    yield window
            if fault := fault_of(stream):
                self.damage.append(Damage(offset, fault, ENDS in fault))
        last = joints.last()
        if last is not None:
            yield last
        if not events:
            sample = self.not_understood.samples[0] if self.not_understood.samples else "an empty file"
            raise InputError(self.source.path, f"no event was found in this text ({sample})")

    def _read(self, stream: BinaryIO) -> Iterator[tuple[int, Block]]:
        """Blocks in their order; the next ones are read while one is taken up.

        Readers remember what fitted last, so each takes every so many-th block and never two at a time: what comes
        out does not depend on which was faster.
        """
        kernel = self.source.format == "ftrace text"
        readers = [BlockReader(self._dialect, self._stamps, kernel) for _ in range(READERS)]
        with ThreadPoolExecutor(READERS) as pool:
            pending: deque[tuple[int, Future[Block]]] = deque()
            try:
                for number, data in enumerate(blocks(stream, BLOCK)):
                    if len(pending) == READERS:
                        size, block = pending.popleft()
                        yield size, block.result()
                    pending.append((len(data), pool.submit(readers[number % READERS].read, data)))
                while pending:
                    size, block = pending.popleft()
                    yield size, block.result()
            finally:
                for _, future in pending:
                    future.cancel()

    def _note(self, block: Block, line: int) -> None:
        """Keep what a block says of threads, of the recording, and of what was not understood."""
        self.threads.comms.update(block.comms)
        self.threads.tgids.update(block.tgids)
        for header in block.headers:
            self._header(header)
        self._isa = self._isa or _isa_of(block)
        if self._isa is not None:
            _fill_isa(block, self._isa)
        shown = 0
        for sample in block.samples:
            number, _, said = sample.partition("\0")
            if len(self.not_understood.samples) < NotUnderstood.MAX_SAMPLES:
                self.not_understood.add(f"line {line + int(number) + 1}: {said}")
                shown += 1
        self.not_understood.count += block.not_understood - shown

    def _header(self, header: str) -> None:
        said = header.lstrip("#").strip()
        if said.startswith("tracer:"):
            self.facts["tracer"] = said.removeprefix("tracer:").strip()
            return
        label, colon, value = said.partition(" : ")
        fact = _HEADER_FACTS.get(label.strip())
        if not colon or fact is None:
            return
        if fact == "kernel":
            self.kernel = value.strip()
        else:
            self.facts[fact] = value.strip()


def _isa_of(block: Block) -> int | None:
    """The instruction set that a block's exits name."""
    exits = block.tables.get("kvm_exit")
    if exits is None:
        return None
    isa = exits.column("isa").drop_null()
    return int(isa[0].as_py()) if len(isa) else None


def _fill_isa(block: Block, isa: int) -> None:
    """Exits that the kernel had no name for do not tell their instruction set; the host has but one."""
    for name, table in block.tables.items():
        at = table.schema.get_field_index("isa")
        reason = next((c for c in ("exit_reason", "exit_code") if c in table.schema.names), None)
        if at >= 0 and reason is not None and table.column(at).null_count:
            kind = table.schema.field(at).type
            filled = pc.if_else(table.column(reason).is_valid(), pc.fill_null(table.column(at), isa), None)
            block.tables[name] = table.set_column(at, "isa", filled.cast(kind))


class _Joints:
    """Losses across the joints of blocks: their ends may lie in other blocks."""

    def __init__(self) -> None:
        self._last: dict[int, int] = {}
        self._open: list[tuple[int | None, int | None, int | None]] = []
        self._last_of_all: int | None = None
        #: First stamp of the recording, and whether buffers were overwritten before it.
        self._start: int | None = None
        self._overwritten = False

    def window(self, block: Block) -> Window | None:
        """The window of a block, with the losses now known from both ends."""
        lost: list[Lost] = []
        still = []
        for cpu, count, since in self._open:
            until = block.first_ns if cpu is None else block.start_ns.get(cpu)
            if until is None:
                still.append((cpu, count, since))
            else:
                lost.append(Lost(cpu, since, until, count))
        self._open = still
        lost[:0] = self._overwritten_start(block)
        for hole in block.lost:
            since = hole.after_ns
            if since is None:
                since = self._last_of_all if hole.cpu is None else self._last.get(hole.cpu)
            if hole.before_ns is None:
                self._open.append((hole.cpu, hole.count, since))
            else:
                lost.append(Lost(hole.cpu, since, hole.before_ns, hole.count))
        self._last.update(block.last_ns)
        if block.last_ns:
            self._last_of_all = max(block.last_ns.values())
        if not block.events and not lost:
            return None
        return Window(block.tables, block.events, lost)

    def _overwritten_start(self, block: Block) -> list[Lost]:
        """What a full buffer lost by overwriting its start: each CPU's part begins at its own time."""
        lost = []
        self._overwritten |= block.started
        if self._start is None:
            self._start = block.first_ns
        if block.written is not None and block.written[1] > block.written[0] and self._start is not None:
            self._overwritten = True
            lost.append(Lost(None, None, self._start, block.written[1] - block.written[0]))
        if self._overwritten and self._start is not None:
            for cpu, first in sorted(block.start_ns.items()):
                if cpu >= 0 and cpu not in self._last and first > self._start:
                    lost.append(Lost(cpu, self._start, first, None))
        return lost

    def last(self) -> Window | None:
        """Losses that were open when the recording ended."""
        if not self._open:
            return None
        return Window({}, 0, [Lost(cpu, since, None, count) for cpu, count, since in self._open])
