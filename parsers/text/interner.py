"""Few distinct words among many: a small code for each, found without sorting."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Interner", "mix"]

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_OTHER = np.uint64(0xC2B2AE3D27D4EB4F)


def mix(key: npt.NDArray[np.uint64], word: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """One key out of a key and a further word."""
    return ((key ^ (key >> np.uint64(29))) * _OTHER) ^ word


class Interner:
    """Gives each distinct 64-bit key a code: 0, 1, 2, … in order of first appearance.

    A direct-mapped table answers for the keys in use; what it misses is sorted and looked up.
    """

    BITS = 12
    #: Keys remembered; beyond, everything is forgotten when `trim` is called.
    LIMIT = 1 << 18

    def __init__(self) -> None:
        self._keys = np.zeros(1 << self.BITS, dtype=np.uint64)
        self._codes = np.full(1 << self.BITS, -1, dtype=np.int32)
        self._known: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._known)

    def trim(self) -> bool:
        """Forget everything if too much is remembered; true if so."""
        if len(self._known) <= self.LIMIT:
            return False
        self._codes[:] = -1
        self._known.clear()
        return True

    def codes(self, keys: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Codes of the keys, and for each key not seen before, in order of its code, a row that has it."""
        slots = (keys * _MULTIPLIER) >> np.uint64(64 - self.BITS)
        codes = self._codes[slots]
        missed = np.flatnonzero((self._keys[slots] != keys) | (codes < 0))
        if not len(missed):
            return codes, missed
        distinct, first, inverse = np.unique(keys[missed], return_index=True, return_inverse=True)
        fresh: list[int] = []
        found = np.empty(len(distinct), dtype=np.int32)
        for i, key in enumerate(distinct.tolist()):
            code = self._known.get(key)
            if code is None:
                code = self._known[key] = len(self._known)
                fresh.append(i)
            found[i] = code
        codes[missed] = found[inverse]
        slot = slots[missed[first]]
        self._keys[slot] = distinct
        self._codes[slot] = found
        return codes, missed[first[fresh]]
