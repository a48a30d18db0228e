"""What a case of an advice is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from builders.store import Row

__all__ = ["Built", "Case", "Recorded"]


@dataclass(frozen=True)
class Recorded:
    """A recording of real KVM, by its name among the samples."""

    name: str


@dataclass(frozen=True)
class Built:
    """A recording that was written down event by event, and why: what no recording of real KVM at hand shows.

    `cpu`: the -cpu option noted beside it; `halt_poll_ns`: the host's parameter, likewise.
    """

    why: str
    rows: Sequence[Row] = field(repr=False)
    cpu: str | None = None
    lasts_ns: int | None = None
    halt_poll_ns: int | None = None


@dataclass(frozen=True)
class Case:
    """`found`: the advice is given. `absent`: it is looked for, and not given; with `silent` it cannot be judged, as
    its subject is all there is to say.
    """

    found: Recorded | Built
    absent: Recorded | Built
    silent: bool = False
