"""Store → tape → verdicts: replays a store through the reference model and keeps what the rules say."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from hvtrace.errors import HvtraceError
from hvtrace.pipeline import qemu_tape
from hvtrace.pipeline.baseline import Baseline, read_baseline
from hvtrace.pipeline.metadata import cpu_option, qemu_command
from hvtrace.pipeline.parallel import in_processes, jobs_for, shares
from hvtrace.pipeline.result import CheckResult, merged
from hvtrace.pipeline.result import write_verdicts as _write
from hvtrace.replay.engine import Engine
from hvtrace.replay.judge import Judge
from hvtrace.replay.model.clock import Stamps
from hvtrace.replay.model.exposure import Offer, parse_cpu
from hvtrace.replay.model.halt_poll import Parameters
from hvtrace.replay.model.machine import Bench
from hvtrace.replay.profile import Profile, profile_for, profile_named
from hvtrace.replay.rule import RESETS
from hvtrace.replay.rules import RULES, select
from hvtrace.replay.tape import QEMU_TAPE, TAPE, Event, Table, events
from hvtrace.schema.groups import is_whole_group
from hvtrace.store import Manifest, Store

if TYPE_CHECKING:
    from hvtrace.pipeline.ingest import Progress
    from hvtrace.replay.rule import Rule
    from hvtrace.replay.verdict import Form

__all__ = ["CheckResult", "Options", "check", "prepare", "tape_of", "without_collector"]

#: Where this many of the synthetic timers' tracepoints have events, all of them were recorded.
TIMER_PREFIX, TIMER_KINDS = "kvm_hv_stimer_", 5

#: Fired in interrupts: `perf script` leaves them out where the interrupt came while the guest ran, and a recording of
#: some threads alone does not have those of others.
HIDDEN = frozenset({"kvm_hv_stimer_callback"})

#: How long it may take to switch all tracepoints on or off, on every CPU.
GRADUAL_NS = 100_000_000

#: A module parameter that is a number.
_NUMBER = re.compile(r"[0-9]{1,10}")

#: Options by which a guest's TSC may run at another frequency than the host's.
OTHER_TSC = re.compile(r"tsc-freq|-incoming|-loadvm")

#: Options with which perf records whatever runs on a CPU.
_EVERYWHERE = re.compile(r"\s(?:-[a-zA-Z]*[aC][a-zA-Z]*|--all-cpus|--cpu)(?:[\s=\d]|$)")


@dataclass(frozen=True, slots=True)
class Options:
    """What a person may ask for: a -cpu option, a profile by name, rules by code prefix, known divergences.

    `jobs`: in how many processes VMs are replayed (None: as suits the recording).
    """

    cpu: str | None = None
    profile: str | None = None
    chosen: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    baseline: Path | None = None
    strict: bool = False
    jobs: int | None = None


def check(store: Store, options: Options | None = None, progress: Progress | None = None) -> CheckResult:
    """Replay a store and judge it; the verdicts are also written into it.

    `progress` is called with the events replayed, those in all, and what is being done; not from other processes.
    Raises HvtraceError where an option is wrong or a table cannot be read.
    """
    options = options or Options()
    baseline = Baseline() if options.baseline is None else read_baseline(options.baseline)
    result = _replayed(store, options, baseline.forms, progress)
    result.compared, result.strict = options.baseline is not None, options.strict
    result.notes += baseline.absent(result)
    if not (options.chosen or options.ignored):
        result.notes += result.poverty()
    if options.strict and result.unknown:
        result.notes.append(f"--strict: {result.unknown:,} verdicts could not be given")
    try:
        _write(store.path, result)
    except OSError as error:
        result.notes.append(f"the verdicts were not written into the store: {error.strerror or error}")
    return result


def _replayed(
    store: Store, options: Options, accepted: frozenset[Form], progress: Progress | None
) -> CheckResult:
    """What the rules say of all VMs. VMs do not touch each other: several processes find what one finds."""
    manifest = store.manifest
    jobs = jobs_for(manifest.total, len(manifest.vms), options.jobs)
    if jobs == 1:
        return _share(store.path, options, accepted, None, progress)
    pieces = in_processes(
        _share, [(store.path, options, accepted, share) for share in shares(manifest.vms, jobs)]
    )
    # Events that belong to no known VM were on every tape: they are counted once.
    common: dict[str, int] = {}
    for _ in tape_of(store, common, frozenset()):
        pass
    return merged(pieces, common)


def _share(
    path: Path,
    options: Options,
    accepted: frozenset[Form],
    vms: frozenset[int] | None,
    progress: Progress | None = None,
) -> CheckResult:
    """Replay some VMs of a store (None: all)."""
    store = Store(path)
    engine, result = prepare(store, options, accepted)
    manifest = store.manifest
    total = sum(manifest.events.get(name, manifest.decoded.get(name, 0)) for name in TAPE)
    with without_collector():
        for window in tape_of(store, result.totals, vms, folding=True):
            engine.run(window)
            if progress is not None:
                progress(result.replayed, total, "replaying")
        # A tape may end before the recording does: every one ends after the same losses.
        engine.reach(manifest.time.get("last_ns") or 0)
        engine.finish()
    judge = engine.judge
    result.divergences = sorted(judge.divergences.values(), key=lambda found: (found.seq, found.rule))
    result.coverage = judge.coverage
    result.judged = {name: judge.judged.get(name, 0) for name in result.totals}
    return result


def prepare(
    store: Store, options: Options, accepted: frozenset[Form] = frozenset()
) -> tuple[Engine, CheckResult]:
    """The engine for a store, which has seen nothing yet, and an empty result.

    Raises HvtraceError where an option is wrong.
    """
    manifest = store.manifest
    profile = _profile(options, manifest.kernel)
    rules = tuple(rule for rule in _rules(options) if profile.specification or not rule.specification)
    traced = _traced(store)
    judge = Judge(rules, traced, profile, accepted)
    judge.selected = bool(options.chosen or options.ignored)
    offer = _offer(options, manifest)
    bench = Bench(judge, profile, traced, offer, _ignore_msrs(manifest.host))
    bench.halt_poll = _halt_poll(manifest.host)
    bench.apicv = _apicv(manifest.host)
    bench.tsc_khz = _tsc_khz(manifest.host)
    bench.vmbus = qemu_tape.recorded(store)
    bench.stamps = Stamps.of(manifest.clock.get("name"), manifest.clock.get("unit"))
    # perf's ring buffer gives a record twice now and then: same stamp to the nanosecond, same fields.
    bench.repeats = any(_format(source).startswith("perf") for source in manifest.sources)
    result = CheckResult(_source(store), profile.name, manifest.total)
    return Engine(bench, _losses(manifest, result.notes)), result


def tape_of(
    store: Store,
    counts: dict[str, int] | None = None,
    vms: frozenset[int] | None = None,
    *,
    folding: bool = False,
) -> Iterator[list[Event]]:
    """The tape of a store; `counts` is filled with the events of each tracepoint on it.

    With `vms`, those of these VMs and those of which nobody knows the VM. For `folding` see `replay.tape.events`.
    """
    tables = {name: _table(store, name, vms) for name in TAPE if store.has(name)}
    return events(tables, counts, folding=folding)


@contextmanager
def without_collector() -> Iterator[None]:
    """Keep the cycle collector from walking millions of event tuples, none of which is in a cycle."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _rules(options: Options) -> tuple[Rule, ...]:
    if not options.chosen and not options.ignored:
        return RULES
    try:
        return select(options.chosen, options.ignored)
    except ValueError as error:
        raise HvtraceError(str(error)) from error


def _profile(options: Options, kernel: str | None) -> Profile:
    if options.profile is None:
        return profile_for(kernel)
    try:
        return profile_named(options.profile, kernel)
    except ValueError as error:
        raise HvtraceError(str(error)) from error


def _source(store: Store) -> str:
    names = [str(source.get("name", "")) for source in store.manifest.sources]
    return ", ".join(name for name in names if name) or store.path.name


def _offer(options: Options, manifest: Manifest) -> Offer | None:
    """What the guest was offered, from --cpu or from the command line noted beside the recording."""
    if options.cpu is not None:
        try:
            return parse_cpu(options.cpu)
        except ValueError as error:
            raise HvtraceError(f"--cpu: {error}") from error
    option = cpu_option(manifest.host, len(manifest.vms))
    try:
        return None if option is None else parse_cpu(option)
    except ValueError:
        return None


def _ignore_msrs(host: dict[str, Any]) -> bool | None:
    """The module parameter, where the metadata has it."""
    return {"Y": True, "N": False, "1": True, "0": False}.get(str(_kvm(host).get("ignore_msrs")))


def _apicv(host: dict[str, Any]) -> bool | None:
    """Whether APICv (Intel) or AVIC (AMD) is switched on, where the metadata tells."""
    parameters = host.get("module_parameters")
    for module, name in (("kvm_intel", "enable_apicv"), ("kvm_amd", "avic")):
        found = parameters.get(module) if isinstance(parameters, dict) else None
        if isinstance(found, dict) and name in found:
            return {"Y": True, "N": False, "1": True, "0": False}.get(str(found[name]))
    return None


def _tsc_khz(host: dict[str, Any]) -> int | None:
    """The host's TSC frequency, where the metadata has it and the command line gives the guest no other."""
    command = qemu_command(host)
    if not command or OTHER_TSC.search(command):
        return None
    try:
        return int(str(host.get("tsc_khz")))
    except ValueError:
        return None


def _halt_poll(host: dict[str, Any]) -> Parameters:
    """The module parameters of halt polling, where the metadata has them."""
    kvm = _kvm(host)
    names = ("halt_poll_ns", "halt_poll_ns_grow", "halt_poll_ns_grow_start", "halt_poll_ns_shrink")
    values = [str(kvm.get(name)) for name in names]
    return Parameters(*(int(value) if _NUMBER.fullmatch(value) else None for value in values))


def _kvm(host: dict[str, Any]) -> dict[str, Any]:
    """The parameters of the module kvm, as the metadata has them."""
    parameters = host.get("module_parameters")
    kvm = parameters.get("kvm") if isinstance(parameters, dict) else None
    return kvm if isinstance(kvm, dict) else {}


def _format(source: dict[str, Any]) -> str:
    return str(source.get("format", ""))


def _traced(store: Store) -> frozenset[str]:
    """Tracepoints that were recorded, fired or not, as far as the recording shows it."""
    hides = any("perf script" in _format(source) or _is_narrow(source) for source in store.manifest.sources)
    return _recorded(store) - (HIDDEN if hides else frozenset()) | qemu_tape.traced(store)


def _is_narrow(source: dict[str, Any]) -> bool:
    """Whether perf recorded some threads alone, and so no interrupts of the others."""
    facts = source.get("facts")
    command = facts.get("cmdline") if isinstance(facts, dict) else None
    return isinstance(command, str) and " record " in command and _EVERYWHERE.search(command) is None


def _recorded(store: Store) -> frozenset[str]:
    fired = {name for name, count in store.manifest.events.items() if count}
    if "kvm_write_tsc_offset" in fired or _entries_show_rip(store):
        fired.add(RESETS)
    if is_whole_group(fired):
        return frozenset(fired | (set(TAPE) - set(QEMU_TAPE)) | {RESETS})
    timers = {name for name in fired if name.startswith(TIMER_PREFIX)}
    if len(timers) >= TIMER_KINDS:
        fired |= {name for name in TAPE if name.startswith(TIMER_PREFIX)}
    return frozenset(fired)


def _entries_show_rip(store: Store) -> bool:
    """Whether kvm_entry has an instruction pointer, which shows a start at the reset vector (kernels since 5.10)."""
    if not store.has("kvm_entry"):
        return False
    file = store.parquet("kvm_entry")
    if "rip" not in file.schema_arrow.names:
        return False
    first = next(file.iter_batches(batch_size=1024, columns=["rip"]), None)
    return first is not None and first.column(0).null_count < len(first)


def _losses(manifest: Manifest, notes: list[str]) -> list[tuple[int | None, int | None]]:
    """Stretches of time in which events may be missing: those the recording declares, and three more.

    perf and a person at tracefs switch tracepoints on and off one after the other, so that the first and the last
    moments of such a recording show only some of them. What a cut file lacks is among the declared losses; but where
    bytes are wrong, nobody knows which others are.
    """
    losses = [(lost.get("from_ns"), lost.get("to_ns")) for lost in manifest.lost]
    first, last = manifest.time.get("first_ns"), manifest.time.get("last_ns")
    # QEMU's own trace has no events of KVM's.
    gradual = any(not _format(source).startswith(("trace.dat", "QEMU ")) for source in manifest.sources)
    if gradual and first is not None and last is not None:
        losses += [(None, first + GRADUAL_NS), (last - GRADUAL_NS, None)]
    if any(source.get("corrupt") and "aligned" not in source for source in manifest.sources):
        losses.append((None, None))
        notes.append(
            "the recording is corrupt: nobody knows which of its bytes are right, so nothing is judged"
        )
    return losses


def _table(store: Store, name: str, vms: frozenset[int] | None = None) -> Table:
    file = store.parquet(name)

    def read(columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
        known = set(file.schema_arrow.names)
        try:
            wanted = [column for column in columns if column in known]
            # Threads would take more time to hand over what they read than reading takes; VMs have processes.
            for batch in file.iter_batches(batch_size=rows, columns=wanted, use_threads=False):
                batch = _completed(batch, columns)
                if name in QEMU_TAPE:
                    batch = qemu_tape.housed(batch, store.manifest)
                yield batch if vms is None else _of(batch, vms, whole=name in QEMU_TAPE)
        except (OSError, pa.ArrowInvalid) as error:
            raise HvtraceError(f"{store.file(name)}: cannot be read: {error}") from error

    return Table(int(file.metadata.num_rows), read)


def _of(batch: pa.RecordBatch, vms: frozenset[int], *, whole: bool = False) -> pa.RecordBatch:
    """The rows of some VMs, and those of an unknown VM; but for a `whole` VM's events also those of no vCPU."""
    vm, vcpu = (batch.column(batch.schema.get_field_index(name)) for name in ("vm", "vcpu"))
    own = pc.or_(pc.is_in(vm, value_set=pa.array(sorted(vms), vm.type)), pc.is_null(vm))
    return batch.filter(own if whole else pc.or_(own, pc.is_null(vcpu)))


def _completed(batch: pa.RecordBatch, columns: list[str]) -> pa.RecordBatch:
    """The columns asked for, null where the table lacks one."""
    have = set(batch.schema.names)
    arrays = [batch.column(name) if name in have else pa.nulls(len(batch), pa.int64()) for name in columns]
    return pa.RecordBatch.from_arrays(arrays, names=columns)
