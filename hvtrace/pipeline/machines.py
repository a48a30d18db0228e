"""Virtual machines and their vCPU threads, concluded from the evidence of a whole recording.

A thread's life is cut into stints: from a `seq` on it runs vCPUs of one VM. Nothing is concluded that the
evidence does not force: where threads could belong to either of two VMs, the grouping says so (`certain`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hvtrace.parsers.recording import Threads
from hvtrace.pipeline.evidence import Birth, Evidence

__all__ = ["Machine", "Machines", "Stint", "conclude"]


#: VMs, the latest, that a new vCPU may belong to.
MAX_WAITING = 256


@dataclass(slots=True)
class Machine:
    """One VM: numbered by first appearance; alive from `since` to `until` (seq, None: to the end)."""

    number: int
    since: int
    until: int | None = None
    name: str | None = None
    tgid: int | None = None
    #: vCPU → threads that ran it.
    vcpus: dict[int, list[int]] = field(default_factory=dict)
    #: False where the grouping of threads to this VM rests on their neighbourhood alone.
    certain: bool = True


@dataclass(frozen=True, slots=True)
class Stint:
    """From `since` on, thread `tid` runs vCPU `vcpu` (None: several in turn) of machine `vm`."""

    tid: int
    since: int
    vm: int
    vcpu: int | None


@dataclass(slots=True)
class Machines:
    """All VMs of a recording and the stints of their threads, by thread and then `since`."""

    vms: list[Machine]
    stints: list[Stint]

    def view(self, until: int) -> tuple[tuple[object, ...], ...]:
        """Return all that can matter to events before `until`: equal views give equal attributions."""
        vms = tuple((m.number, m.since, m.until if m.until and m.until < until else None, m.tgid,
                     tuple(sorted(m.vcpus))) for m in self.vms if m.since < until)  # fmt: skip
        return (*vms, *((s.tid, s.since, s.vm, s.vcpu) for s in self.stints if s.since < until))


@dataclass(slots=True)
class _Group:
    """A VM in the making."""

    since: int
    appeared: int
    online: int = 0
    offset: int | None = None
    tgid: int | None = None
    name: str | None = None
    members: list[tuple[int, int, int]] = field(default_factory=list)  # tid, since, vcpu
    creators: dict[int, int] = field(default_factory=dict)  # vcpu → thread that created it
    certain: bool = True

    @property
    def vcpus(self) -> set[int]:
        return {vcpu for _, _, vcpu in self.members} | set(self.creators)


def conclude(evidence: Evidence, threads: Threads) -> Machines:
    """Conclude VMs, their vCPUs and threads from `evidence` and from what the recording says of `threads`."""
    groups = _born(evidence, threads)
    _adopt_workers(groups, evidence, threads)
    placed = {tid for g in groups for tid, _, _ in g.members}
    resident = sorted(set(evidence.acted) - placed)
    # A thread that created its vCPU later in the recording may have run another VM's before.
    resident += [t for t in sorted(placed & set(evidence.acted)) if _before_first_stint(t, groups, evidence)]
    groups += _residents(resident, evidence, threads)
    return _number(groups, evidence)


def _before_first_stint(tid: int, groups: list[_Group], evidence: Evidence) -> bool:
    first = min(since for g in groups for t, since, _ in g.members if t == tid)
    return min(evidence.acted[tid].values()) < first


def _born(evidence: Evidence, threads: Threads) -> list[_Group]:
    """VMs whose creation the recording shows: a first vCPU coming online begins one, later ones join it."""
    groups: list[_Group] = []
    for birth in sorted(evidence.births, key=lambda b: b.seq):
        tgid = threads.tgids.get(birth.tid)
        group = None
        if birth.online > 1:
            group = _joined(groups, birth, tgid)
        if group is None:
            group = _Group(birth.since, birth.seq, tgid=tgid)
            groups.append(group)
        group.online, group.offset = birth.online, birth.offset
        group.creators[birth.vcpu] = birth.tid
        group.members.append((birth.tid, birth.since, birth.vcpu))
    return groups


def _joined(groups: list[_Group], birth: Birth, tgid: int | None) -> _Group | None:
    """The VM that was waiting for this vCPU: by process, else by count and TSC offset, else the nearest thread's."""
    waiting = [g for g in groups[-MAX_WAITING:] if birth.vcpu not in g.creators and g.tgid == tgid]
    if tgid is None:
        waiting = [g for g in waiting if g.online == birth.online - 1]
        same = [g for g in waiting if g.offset == birth.offset]
        waiting = same or waiting
    if not waiting:
        return None
    if tgid is not None:
        return waiting[-1]
    group = min(waiting, key=lambda g: min(abs(tid - birth.tid) for tid, _, _ in g.members))
    group.certain = group.certain and len(waiting) == 1
    return group


def _adopt_workers(groups: list[_Group], evidence: Evidence, threads: Threads) -> None:
    """VCPUs created by one thread and run by another: give the runner to the VM whose creator never ran it."""
    created = {tid for g in groups for tid, _, _ in g.members}
    for tid in sorted(set(evidence.acted) - created):
        vcpu, seq = min(evidence.acted[tid].items(), key=lambda item: item[1])
        tgid = threads.tgids.get(tid)
        candidates = [
            g
            for g in groups
            if g.appeared <= seq
            and g.tgid == tgid
            and vcpu in g.creators
            and vcpu not in evidence.acted.get(g.creators[vcpu], {})
        ]
        if candidates:
            candidates[-1].members.append((tid, seq, vcpu))


def _residents(tids: list[int], evidence: Evidence, threads: Threads) -> list[_Group]:
    """VMs that were there before the recording began, grouped by guest, by process, or by their threads' order."""
    groups: list[_Group] = []
    for tid in tids:
        vcpu, seq = min(evidence.acted[tid].items(), key=lambda item: item[1])
        tgid = threads.tgids.get(tid)
        name = threads.guests[tid][0] if tid in threads.guests else None
        if tgid is not None:
            home = next((g for g in groups if g.tgid == tgid), None)
        elif name is not None:
            home = next((g for g in groups if g.name == name), None)
        else:
            # Userspace starts a VM's vCPU threads in the order of their ids, one after the other.
            unknown = [g for g in groups if g.tgid is None and g.name is None]
            fitting = [g for g in unknown if vcpu not in g.vcpus]
            home = fitting[-1] if fitting else None
            if len(unknown) > 1 or (unknown and not fitting):
                for g in unknown:
                    g.certain = False
        if home is None:
            home = _Group(
                0, seq, tgid=tgid, name=name, certain=not (tgid is None and name is None and groups)
            )
            groups.append(home)
        home.appeared = min(home.appeared, seq)
        home.members.append((tid, 0, vcpu))
    return groups


def _runs(tid: int, own: set[int], evidence: Evidence) -> int | None:
    """The vCPU that a thread runs of those it created or ran; None where it runs several in turn."""
    acted = set(evidence.acted.get(tid, {}))
    if tid not in evidence.shared:
        # Who creates vCPUs for others runs at most one of them.
        own = (own & acted) or own
    elif len(acted | own) > 1:
        return None
    return next(iter(own)) if len(own) == 1 else None


def _number(groups: list[_Group], evidence: Evidence) -> Machines:
    vms: list[Machine] = []
    stints: list[Stint] = []
    for number, group in enumerate(sorted(groups, key=lambda g: (g.appeared, g.since))):
        vm = Machine(number, group.since, name=group.name, tgid=group.tgid, certain=group.certain)
        runs: dict[int, tuple[int, set[int]]] = {}
        for tid, since, vcpu in group.members:
            first, own = runs.setdefault(tid, (since, set()))
            runs[tid] = (min(first, since), own | {vcpu})
            ran_elsewhere = vcpu in evidence.acted.get(tid, {}) or vcpu not in group.creators
            if ran_elsewhere or not any(t != tid and v == vcpu for t, _, v in group.members):
                vm.vcpus.setdefault(vcpu, []).append(tid)
        for tid, (since, own) in runs.items():
            stints.append(Stint(tid, since, number, _runs(tid, own, evidence)))
        vms.append(vm)
    stints.sort(key=lambda s: (s.tid, s.since))
    # A VM ends where all its threads have gone on to others.
    for vm in vms:
        ends = []
        for at, stint in enumerate(stints):
            if stint.vm == vm.number:
                after = stints[at + 1] if at + 1 < len(stints) else None
                ends.append(after.since if after and after.tid == stint.tid else None)
        if ends and None not in ends:
            vm.until = max(e for e in ends if e is not None)
    return Machines(vms, stints)
