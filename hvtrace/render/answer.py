"""Answers of analyses for scripts: one JSON object, or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["as_csv", "as_json"]


def as_json(answer: Mapping[str, Any], source: str, unit: str | None = None) -> str:
    """Return one object: schema_version, source, unit of the times (where given), and the answer."""
    head: dict[str, Any] = {"schema_version": 1, "source": source}
    head |= {} if unit is None else {"unit": unit}
    return json.dumps(head | dict(answer), indent=1, ensure_ascii=False)


def as_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return the rows, a line each, under a line of names. What is not in `columns` is left out."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        # As JSON writes them.
        writer.writerow({k: str(v).lower() if isinstance(v, bool) else v for k, v in row.items()})
    return out.getvalue().rstrip("\n")
