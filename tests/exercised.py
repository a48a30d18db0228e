"""What recordings exercise: for every rule, how often it held, diverged and could not tell.

    python tests/exercised.py RECORDING_OR_STORE ...

prints a table of all rules over all the recordings given (profile "tlfs", so that the rules of the specification are
asked as well), then the rules that none of them exercises, and the judged share of every interface tracepoint.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from hvtrace.pipeline.check import Options, check
from hvtrace.pipeline.ingest import ingest
from hvtrace.replay.rules import RULES
from hvtrace.store import Store

__all__ = ["Exercise", "exercise"]


@dataclass(slots=True)
class Exercise:
    """Verdicts by rule, the recordings in which a rule held or diverged, and judged events by tracepoint."""

    holds: Counter[str] = field(default_factory=Counter)
    diverges: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    recordings: Counter[str] = field(default_factory=Counter)
    judged: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)

    def __iadd__(self, other: Exercise) -> Exercise:
        for name in ("holds", "diverges", "unknown", "recordings", "judged", "totals"):
            getattr(self, name).update(getattr(other, name))
        return self


def exercise(path: Path) -> Exercise:
    """The verdicts on one recording or store."""
    with tempfile.TemporaryDirectory() as folder:
        store = path
        if path.suffix != ".hvt":
            store = Path(folder) / "store.hvt"
            ingest([path / "trace.dat" if path.is_dir() else path], store)
        result = check(Store(store), Options(profile="tlfs", jobs=1))
    found = Exercise(judged=Counter(result.judged), totals=Counter(result.totals))
    for code, coverage in result.coverage.items():
        found.holds[code] += coverage.holds
        found.diverges[code] += coverage.diverges
        found.unknown[code] += sum(coverage.unknown.values())
        found.recordings[code] += bool(coverage.holds or coverage.diverges)
    return found


def table(found: Exercise) -> Iterable[str]:
    """The rules as rows of Markdown, and what is not exercised."""
    yield "| rule | name | holds | diverges | unknown | recordings |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for rule in RULES:
        counts = [counter[rule.code] for counter in (found.holds, found.diverges, found.unknown)]
        row = " | ".join(f"{count:,}" for count in [*counts, found.recordings[rule.code]])
        yield f"| {rule.code} | {rule.name} | {row} |"
    yield ""
    idle = [rule.code for rule in RULES if not found.recordings[rule.code]]
    yield f"{len(RULES)} rules; not exercised: {', '.join(idle) or 'none'}"
    yield ""
    for name, total in sorted(found.totals.items()):
        if found.judged[name]:
            yield f"{name}: judged {found.judged[name]:,} of {total:,} ({found.judged[name] / total:.1%})"


def main(arguments: list[str]) -> int:
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    found = Exercise()
    with ProcessPoolExecutor(2) as pool:
        for one in pool.map(exercise, map(Path, arguments)):
            found += one
    print("\n".join(table(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
