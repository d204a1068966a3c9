"""Arrow arrays by their buffers: pyarrow's own ways import pandas, which takes longer than preparing many rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def numbers(values: NDArray[Any]) -> Any:
    """An array of the numbers."""
    import pyarrow as pa

    kind = pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def values(array: Any) -> NDArray[Any]:
    """The numbers of an array that has one for each row."""
    dtype = np.dtype(array.type.to_pandas_dtype())
    return np.frombuffer(array.buffers()[1], dtype=dtype, count=len(array), offset=array.offset * dtype.itemsize)


def texts(values: Sequence[str]) -> Any:
    """An array of the texts."""
    import pyarrow as pa

    data = [value.encode() for value in values]
    ends = pa.py_buffer(_ends([len(part) for part in data]))
    return pa.Array.from_buffers(pa.string(), len(data), [None, ends, pa.py_buffer(b"".join(data))])


def fixed(data: bytes, size: int) -> Any:
    """An array of pieces of `size` bytes each."""
    import pyarrow as pa

    return pa.Array.from_buffers(pa.binary(size), len(data) // size, [None, pa.py_buffer(data)])


def lists(values: Any, sizes: Sequence[int]) -> Any:
    """An array of lists: the first holds the first sizes[0] of the values, and so on."""
    import pyarrow as pa

    return pa.ListArray.from_arrays(numbers(_ends(sizes)), values)


def _ends(sizes: Sequence[int]) -> NDArray[np.int32]:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
