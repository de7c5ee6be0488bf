"""Columns of tables as arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray


def numbers(column: pd.Series) -> NDArray[np.float64]:
    """A column as an array; NaN where it has nothing."""
    array: NDArray[np.float64] = column.to_numpy(dtype="float64", na_value=float("nan"))
    return array
