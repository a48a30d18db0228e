"""Builds a timeline again with the perfetto package's own builder, and says how long the building took.

    python benchmarks/perfetto_builder.py TRACE OUT [--builder streaming|memory] [--check]

Everything the builder is to write is held in plain tuples before the clock starts: numbers, and names already
interned. The clock runs while messages are made, filled, serialized and written to the file OUT; reading TRACE is not
counted. `streaming` uses StreamingTraceProtoBuilder, `memory` TraceProtoBuilder, which is faster, in portions that fit
into memory. With `--check`, OUT is held against TRACE, packet by packet. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import json
import mmap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TracePacket, TrackEvent
from perfetto.trace_builder.proto_builder import StreamingTraceProtoBuilder, TraceProtoBuilder

__all__ = ["BUILDERS", "Event", "build", "main"]

#: Packets read, and then built, at a time.
PORTION = 50_000


class Event(NamedTuple):
    """A track event. `arguments`: iid of the name, field of the value, value."""

    ts: int
    type: int
    track: int
    name: int
    categories: tuple[int, ...]
    arguments: tuple[tuple[int, str, Any], ...]
    flows: tuple[int, ...]
    counter: float | None


def portions(trace: Path) -> Iterator[bytes]:
    """Yield the trace in parts that are traces of up to PORTION packets each."""
    with trace.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start = at = packets = 0
        while at < len(data):
            size = shift = 0
            while True:
                # The tag of Trace.packet is one byte; then comes the packet's length.
                at += 1
                size |= (data[at] & 0x7F) << shift
                shift += 7
                if data[at] < 0x80:
                    break
            at += 1 + size
            packets += 1
            if packets % PORTION == 0 or at == len(data):
                yield data[start:at]
                start = at


def plain(packet: TracePacket) -> Event | TracePacket:
    """Return what a packet says as numbers; packets other than track events (there are few) as they are."""
    if not packet.HasField("track_event"):
        return packet
    event = packet.track_event
    arguments = []
    for a in event.debug_annotations:
        field = a.WhichOneof("value")
        arguments.append((a.name_iid, field, getattr(a, field)))
    return Event(
        packet.timestamp,
        event.type,
        event.track_uuid,
        event.name_iid,
        tuple(event.category_iids),
        tuple(arguments),
        tuple(event.flow_ids),
        event.double_counter_value if event.type == TrackEvent.TYPE_COUNTER else None,
    )


def fill(packet: TracePacket, wanted: Event | TracePacket) -> None:
    """Fill an empty packet."""
    if not isinstance(wanted, Event):
        packet.CopyFrom(wanted)
        return
    ts, kind, track, name, categories, arguments, flows, counter = wanted
    packet.timestamp = ts
    packet.trusted_packet_sequence_id = 1
    packet.sequence_flags = 2
    event = packet.track_event
    event.type = kind
    event.track_uuid = track
    if name:
        event.name_iid = name
    if categories:
        event.category_iids.extend(categories)
    for iid, field, value in arguments:
        annotation = event.debug_annotations.add()
        annotation.name_iid = iid
        setattr(annotation, field, value)
    if flows:
        event.flow_ids.extend(flows)
    if counter is not None:
        event.double_counter_value = counter


def with_streaming(wanted: list[Event | TracePacket], out: IO[bytes]) -> None:
    builder = StreamingTraceProtoBuilder(out)
    for one in wanted:
        packet = builder.create_packet()
        fill(packet, one)
        builder.write_packet(packet)


def in_memory(wanted: list[Event | TracePacket], out: IO[bytes]) -> None:
    builder = TraceProtoBuilder()
    for one in wanted:
        fill(builder.add_packet(), one)
    out.write(builder.serialize())


BUILDERS: dict[str, Callable[[list[Event | TracePacket], IO[bytes]], None]] = {
    "streaming": with_streaming,
    "memory": in_memory,
}


def build(trace: Path, target: Path, builder: str, check: bool) -> dict[str, float]:
    """Write `target`; return the number of slices and packets, and seconds of wall and CPU time."""
    put = BUILDERS[builder]
    slices = packets = 0
    wall = cpu = 0.0
    # No garbage is made that would have to be looked for: the collector would only cost the builder time.
    gc.disable()
    with target.open("w+b") as out:
        for data in portions(trace):
            wanted = [plain(packet) for packet in Trace.FromString(data).packet]
            packets += len(wanted)
            slices += sum(isinstance(e, Event) and e.type == TrackEvent.TYPE_SLICE_BEGIN for e in wanted)
            start = out.tell()
            wall_before, cpu_before = time.perf_counter(), time.process_time()
            put(wanted, out)
            out.flush()
            wall += time.perf_counter() - wall_before
            cpu += time.process_time() - cpu_before
            if check:
                out.seek(start)
                if Trace.FromString(out.read()) != Trace.FromString(data):
                    raise SystemExit(
                        f"what was built differs from {trace} after {packets - len(wanted)} packets"
                    )
    return {"slices": slices, "packets": packets, "wall_s": round(wall, 4), "cpu_s": round(cpu, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trace", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--builder", choices=BUILDERS, default="memory")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    print(json.dumps(build(arguments.trace, arguments.out, arguments.builder, arguments.check)))


if __name__ == "__main__":
    main()
