"""Finds the rows of tables by the ids in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserve._extras import require
from edgeserve.replay._columns import PURPOSE

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray


class IdIndex:
    """Where ids are, by hashes that Arrow makes of them: an index of pandas has a Python object for each.

    Args:
        ids: A column of ids as text; it may miss some.
    """

    def __init__(self, ids: pd.Series) -> None:
        self._np = require("numpy", "replay", PURPOSE)
        self._pa = require("pyarrow", "replay", PURPOSE)
        encoded = self._texts(ids).dictionary_encode()
        self._known = encoded.dictionary
        self._codes: NDArray[np.int64] = self._codes_of(encoded.indices)
        # The first row of each of them.
        self._rows: NDArray[np.int64] = self._np.empty(len(self._known), dtype=self._np.int64)
        there = self._np.flatnonzero(self._codes >= 0)[::-1]
        self._rows[self._codes[there]] = there  # the first one is written last

    def find(self, ids: pd.Series) -> NDArray[np.int64]:
        """The first row of each of these; -1 for those that are nowhere."""
        if not len(self._rows):
            return self._np.full(len(ids), -1, dtype=self._np.int64)  # type: ignore[no-any-return]
        codes = self._codes_of(require("pyarrow.compute", "replay", PURPOSE).index_in(self._texts(ids), self._known))
        return self._np.where(codes >= 0, self._rows[codes], -1)  # type: ignore[no-any-return]

    def is_repeated(self) -> NDArray[np.bool_]:
        """Of each row, whether its id is in another one as well."""
        if len(self._rows) in (0, len(self._codes)):
            return self._np.zeros(len(self._codes), dtype=bool)  # type: ignore[no-any-return]
        counts = self._np.bincount(self._codes[self._codes >= 0], minlength=len(self._known))
        return (self._codes >= 0) & (counts[self._codes] > 1)  # type: ignore[no-any-return]

    def _texts(self, ids: pd.Series) -> Any:
        texts = self._pa.array(ids, from_pandas=True).cast(self._pa.large_string())
        return texts.combine_chunks() if isinstance(texts, self._pa.ChunkedArray) else texts

    def _codes_of(self, indices: Any) -> NDArray[np.int64]:
        codes: NDArray[np.int64] = indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(self._np.int64)
        return codes
