"""Work done in several processes: which VMs go where, and how the answers come back."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from hvtrace.errors import HvtraceError

__all__ = ["in_processes", "jobs_for", "shares"]

#: Below this many events of a recording a second process costs more than it saves.
WORTHWHILE = 2_000_000

Answer = TypeVar("Answer")


def jobs_for(total: int, vms: int, wanted: int | None) -> int:
    """How many processes: as many as wanted, or as the CPUs where a recording is large; never more than VMs."""
    if wanted is None:
        wanted = (os.cpu_count() or 1) if total >= WORTHWHILE else 1
    return max(min(wanted, vms), 1)


def shares(vms: Iterable[dict[str, Any]], jobs: int) -> list[frozenset[int]]:
    """The numbers of a manifest's VMs in `jobs` shares of about the same work, told by the span each was seen."""
    spans = [((vm.get("last_seq") or 0) - (vm.get("first_seq") or 0), int(vm["vm"])) for vm in vms]
    found: list[list[int]] = [[] for _ in range(jobs)]
    loads = [0] * jobs
    for span, number in sorted(spans, key=lambda one: (-one[0], one[1])):
        least = loads.index(min(loads))
        found[least].append(number)
        loads[least] += span + 1
    return [frozenset(share) for share in found]


def in_processes(work: Callable[..., Answer], calls: Sequence[tuple[Any, ...]]) -> list[Answer]:
    """Call `work` with each tuple of arguments in a process of its own; the answers in the order of `calls`.

    `work` is a function of a module; arguments and answers can be pickled. HvtraceError of a process is raised here;
    one that dies otherwise is an error, and none is left behind.
    """
    context = get_context("spawn")
    processes, ends = [], []
    try:
        for call in calls:
            end, other = context.Pipe(duplex=False)
            process = context.Process(target=_run, args=(other, work, call), daemon=True)
            process.start()
            other.close()
            processes.append(process)
            ends.append(end)
        return [_answer(end) for end in ends]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _answer(end: Connection) -> Any:
    try:
        answer, error = end.recv()
    except EOFError:
        raise HvtraceError("a process of the replay ended before its work was done; try --jobs 1") from None
    if error is not None:
        raise error
    return answer


def _run(end: Connection, work: Callable[..., Any], call: tuple[Any, ...]) -> None:
    """In the other process: an interrupt from the keyboard is the first process's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        end.send((work(*call), None))
    except HvtraceError as error:
        end.send((None, HvtraceError(str(error))))
