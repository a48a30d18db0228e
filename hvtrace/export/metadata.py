"""Facts about the trace as a whole: host kernel, what made the file."""

from __future__ import annotations

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import TracePacket

from hvtrace import __version__
from hvtrace.export.packets import SEQUENCE, framed
from hvtrace.store import Manifest

__all__ = ["metadata_packets"]


def metadata_packets(manifest: Manifest) -> bytes:
    """Framed packets with the facts Perfetto shows about a trace: host kernel, and what made the file."""
    packet = TracePacket(trusted_packet_sequence_id=SEQUENCE)
    info = packet.system_info
    info.tracing_service_version = f"hvtrace {__version__}"
    info.utsname.sysname = "Linux"
    if manifest.kernel:
        info.utsname.release = manifest.kernel
    if isinstance(version := manifest.host.get("kernel"), str):
        info.utsname.version = version
    return framed(packet.SerializeToString())
