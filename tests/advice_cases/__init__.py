"""For each advice, a recording in which it must appear, and one in which it is looked for and must not.

Recordings of real KVM where there are any; built ones, which say why, where there are none.
"""

from __future__ import annotations

from advice_cases import costs, enlightenments
from advice_cases.case import Built, Case, Recorded

__all__ = ["CASES", "Built", "Case", "Recorded"]

#: By code; those of a subject are in the file of its name.
CASES: dict[str, Case] = {
    **enlightenments.CASES,
    **costs.CASES,
}
