"""Distances and nearest neighbours of embeddings, all pairs by matrix products.

Every distance here is the largest Euclidean distance (or its square) between corresponding parts of
two embeddings. One search therefore serves all of them: float32 products leave out what cannot be
among the nearest by a bound on their rounding, and the few that remain are compared by differences
in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from m2g_audit.errors import UsageError
from m2g_audit.similarity.base import Metric

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

# Bytes of the temporaries of one block of pairs, beside the embeddings themselves; a few times as
# many where all pairs must be compared again. (Two embeddings longer than this come one at a time.)
_BLOCK_BYTES = 64 * 2**20
# Bytes of one pair in a block: its square, a product, one part's square, the selection.
_PAIR_BYTES = 32
# Dimensions multiplied at once, so that rounding grows with their number and not with all.
_CHUNK = 1024
# Numbers of a difference at once: they stay in a core's cache.
_PIECE = 2**16
# Squared distances below this share of the squared norms are taken again from differences:
# a^2 + b^2 - 2ab has lost its digits there.
_CANCELLATION = 1e-6
# Squared norms between which float32 products neither overflow nor lose all their digits.
_FLOAT32_RANGE = (1e-30, 1e30)


def distances(metric: Metric, a: Tensor, b: Tensor) -> FloatArray:
    """Return the distances of all pairs, float64 [n, m], of embeddings a [n, p, d] and b [m, p, d].

    Products are in float64; pairs whose digits cancel are recomputed from differences, so equal
    images are at exactly 0, and the relative error is below 1e-6 (for d up to 4 million). A pair
    with a non-finite embedding is at infinity. The whole matrix is returned: use `nearest` where
    n x m is large.
    """
    _check_comparable(a, b)
    x, y = Vectors.of(a), Vectors.of(b)
    step = _rows_of_block()
    whole = np.empty((len(a), len(b)))
    for i, left in x.blocks(step):
        for j, right in y.blocks(step):
            squares = _squares(left, right, torch.float64)
            norms = left.norms.amax(dim=1)[:, None] + right.norms.amax(dim=1)
            # Strictly below, which leaves out pairs at infinity.
            rows, columns = _where(squares < _CANCELLATION * norms)
            block = squares.numpy()
            block[rows, columns] = _squares_by_differences(left.values, right.values, rows, columns)
            whole[i : i + step, j : j + step] = _distances(metric, block)
    return whole


def paired(metric: Metric, a: Tensor, b: Tensor) -> Tensor:
    """Return the distance of each embedding of a [n, p, d] to its own of b [n, p, d], float64 [n].

    From differences, in float64; a pair with a non-finite embedding is at NaN or infinity.
    """
    squares = (a.double() - b.double()).square().sum(dim=2).amax(dim=1)
    return squares if metric.squared else squares.sqrt()


def within(metric: Metric, a: Tensor, b: Tensor, limit: float) -> BoolArray:
    """Return which pairs are at most `limit` apart, [n, m], as `distances` has them.

    Products in float32 decide all pairs but those whose bound on rounding leaves it open.
    """
    _check_comparable(a, b)
    x, y = Vectors.of(a), Vectors.of(b)
    step = _rows_of_block()
    whole = np.empty((len(a), len(b)), dtype=bool)
    square = limit if metric.squared else limit**2
    for i, left in x.blocks(step):
        for j, right in y.blocks(step):
            dtype = _dtype_for(left, right)
            squares = _squares(left, right, dtype)
            error = _error_of_squares(left, right, dtype)[:, None].to(dtype)
            block = (squares <= square).numpy()
            open_ = ((squares - square).abs() <= error) & squares.isfinite()
            rows, columns = _where(open_)
            exact = _squares_by_differences(left.values, right.values, rows, columns)
            block[rows, columns] = _distances(metric, exact) <= limit
            whole[i : i + step, j : j + step] = block
    return whole


def nearest(
    metric: Metric,
    queries: Tensor,
    base: Tensor,
    k: int = 1,
    *,
    exclude_self: bool = False,
    block: int | None = None,
) -> tuple[FloatArray, IntArray]:
    """Return the k nearest base images of each query: distances [n, k] ascending, indices [n, k].

    queries [n, p, d] and base [m, p, d] are embeddings; `exclude_self` leaves out base image i for
    query i (the two are then the same set). The distances are those of direct differences in
    float64: equal images are at exactly 0, and of base images at one distance the lower index comes
    first. A pair with a non-finite embedding is at infinity, behind all others. `block` is the
    number of rows of each side compared at once; it bounds memory and changes nothing else. Every
    base image as near as the k-th nearest is compared again: many equal ones cost time. Fewer than
    k others: UsageError.
    """
    _check_comparable(queries, base)
    available = len(base) - int(exclude_self)
    if not 1 <= k <= available:
        raise UsageError(f"Cannot find {k} nearest among {available} images: give more images.")
    x, y = Vectors.of(queries), Vectors.of(base)
    step = block or _rows_of_block()
    values = np.empty((len(queries), k))
    indices = np.empty((len(queries), k), dtype=np.int64)
    for i, left in x.blocks(step):
        search = Search(metric, left, k)
        for j, right in y.blocks(step):
            search.look(right, j, same=exclude_self and i == j)
        for j, right in y.blocks(step):
            search.settle(right.values, np.arange(j, j + len(right.values)))
        stripe = slice(i, i + step)
        values[stripe], indices[stripe] = search.found(first=i if exclude_self else None)
    return values, indices


class Search:
    """A search for the k nearest images of a base that comes in pieces.

    First `look` at every piece: by products, pairs that can't be among the k nearest are left out.
    Then `settle` those that are `wanted`, by differences, and `found` is the result of `nearest`.
    With fewer images than k it is as wide as there are images.
    """

    def __init__(self, metric: Metric, queries: Vectors, k: int) -> None:
        self._metric, self._queries, self._k = metric, queries, k
        self._seen = 0
        n = len(queries.values)
        self._bounds = np.full((n, k), np.inf)  # the k smallest upper bounds of squares, by row
        self._pending = _Pairs.none()  # with lower bounds of their squares
        self._settled = _Pairs.none()  # with their squares

    def look(self, base: Vectors, first: int = 0, *, same: bool = False) -> None:
        """Compare all queries with images of the base, of which the first has that number.

        same: these are the queries themselves, and none is its own neighbour. Let S be a square by
        products and e a bound on its error. At least k squares of a row are within the k-th
        smallest S + e, so that a pair with S - e above that is none of the k nearest.
        """
        _check_comparable(self._queries.values, base.values)
        self._seen = max(self._seen, first + len(base.values))
        dtype = _dtype_for(self._queries, base)
        squares = _squares(self._queries, base, dtype)
        if same:
            squares.diagonal().fill_(torch.inf)
        error = _error_of_squares(self._queries, base, dtype).numpy()[:, None]
        smallest = squares.topk(min(self._k, squares.shape[1]), dim=1, largest=False).values
        upper = np.concatenate([self._bounds, smallest.numpy() + error], axis=1)
        self._bounds = np.sort(upper, axis=1)[:, : self._k]
        limit = torch.from_numpy(self._bounds[:, -1:] + error)
        rows, columns = _where((squares <= limit.to(dtype)) & squares.isfinite())
        lower = squares.numpy()[rows, columns] - error[rows, 0]
        found = _Pairs(rows, columns + first, lower)
        if len(rows) + len(self._pending.rows) > _BLOCK_BYTES // _PAIR_BYTES:
            # Many equal ones are compared at once, for they would not all fit.
            self._take(base.values, found, found.numbers - first)
        else:
            joined = self._pending.with_(found)
            self._pending = joined.only(joined.values <= self._bounds[joined.rows, -1])

    @property
    def wanted(self) -> IntArray:
        """Return the numbers of the images that are still to be settled, ascending."""
        return np.unique(self._pending.numbers)

    def settle(self, base: Tensor, numbers: IntArray) -> None:
        """Compare again, by differences, embeddings of the base with these ascending numbers."""
        places = np.searchsorted(numbers, self._pending.numbers).clip(max=len(numbers) - 1)
        here = numbers[places] == self._pending.numbers
        self._take(base, self._pending.only(here), places[here])
        self._pending = self._pending.only(~here)

    def _take(self, base: Tensor, pairs: _Pairs, places: IntArray) -> None:
        squares = _squares_by_differences(self._queries.values, base, pairs.rows, places)
        exact = self._settled.with_(_Pairs(pairs.rows, pairs.numbers, squares))
        order = np.lexsort((exact.numbers, exact.values, exact.rows))
        rows = exact.rows[order]
        rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
        self._settled = exact.only(order[rank < self._k])

    def found(self, first: int | None = None) -> tuple[FloatArray, IntArray]:
        """Return distances [n, k] ascending and numbers [n, k]; of equal ones, the lower first.

        first: the number of the first query, if the queries are images of the base.
        """
        if len(self._pending.rows):
            raise RuntimeError("Settle what is wanted before asking for what was found.")
        available = self._seen - int(first is not None)
        n, k = len(self._queries.values), min(self._k, available)
        values = np.full((n, k), np.inf)
        numbers = np.empty((n, k), dtype=np.int64)
        starts = np.searchsorted(self._settled.rows, np.arange(n + 1))
        for i, (start, stop) in enumerate(pairwise(starts)):
            there = self._settled.numbers[start:stop]
            count = min(k, len(there))
            values[i, :count] = self._settled.values[start : start + count]
            numbers[i, :count] = there[:count]
            if count < k:  # all others are at infinity
                left_out = [*there, *([] if first is None else [first + i])]
                others = np.setdiff1d(np.arange(k + 1 + len(left_out)), left_out)
                numbers[i, count:] = others[: k - count]
        return _distances(self._metric, values), numbers


@dataclass(frozen=True)
class _Pairs:
    """Pairs of a query (row) and an image of the base (number), each with a value; all [m]."""

    rows: IntArray
    numbers: IntArray
    values: FloatArray

    @classmethod
    def none(cls) -> _Pairs:
        return cls(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0))

    def with_(self, other: _Pairs) -> _Pairs:
        return _Pairs(
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.numbers, other.numbers]),
            np.concatenate([self.values, other.values]),
        )

    def only(self, which: NDArray[np.bool_] | IntArray) -> _Pairs:
        return _Pairs(self.rows[which], self.numbers[which], self.values[which])


@dataclass(frozen=True)
class Vectors:
    """Embeddings [n, p, d] with the squared norms of their parts, float64 [n, p].

    The norm of a part that is not finite is infinite.
    """

    values: Tensor
    norms: Tensor

    @classmethod
    def of(cls, embeddings: Tensor) -> Vectors:
        """Return embeddings [n, ...] with what a search needs of them."""
        values = embeddings.numpy()
        # Converts to float64 piece by piece.
        norms = np.einsum("npd,npd->np", values, values, dtype=np.float64)
        return cls(embeddings, torch.from_numpy(norms).nan_to_num_(nan=torch.inf, posinf=torch.inf))

    def blocks(self, step: int) -> Iterator[tuple[int, Vectors]]:
        """Yield the rows in blocks, each with the number of its first."""
        for i in range(0, len(self.values), step):
            yield i, Vectors(self.values[i : i + step], self.norms[i : i + step])

    @property
    def largest_norm(self) -> float:
        """The largest finite norm, 0 where there is none."""
        finite = self.norms[self.norms.isfinite()]
        return float(finite.max()) if len(finite) else 0.0


def _dtype_for(x: Vectors, y: Vectors) -> torch.dtype:
    low, high = _FLOAT32_RANGE
    fits = low < max(x.largest_norm, y.largest_norm) < high
    return torch.float32 if fits else torch.float64


def _squares(x: Vectors, y: Vectors, dtype: torch.dtype) -> Tensor:
    """Return the squared distances of all pairs, the largest over parts, by matrix products."""
    width = x.values.shape[2]
    product = torch.empty(len(x.values), len(y.values), dtype=dtype)
    largest = torch.zeros_like(product)
    for part in range(x.values.shape[1]):
        squares = x.norms[:, part, None].to(dtype) + y.norms[:, part].to(dtype)
        for start in range(0, width, _CHUNK):
            chunk = slice(start, start + _CHUNK)
            left, right = (v.values[:, part, chunk].to(dtype) for v in (x, y))
            torch.mm(left, right.T, out=product)
            squares.sub_(product, alpha=2)
        torch.maximum(largest, squares, out=largest)
    # An infinite norm gives infinity, or NaN if the product is infinite too.
    return largest.nan_to_num_(nan=torch.inf, posinf=torch.inf)


def _error_of_squares(x: Vectors, y: Vectors, dtype: torch.dtype) -> Tensor:
    """Return a bound, float64 [n], on how far `_squares` are from the squares by differences.

    With unit roundoff u and N = |x|^2 + |y|^2: a product of c dimensions errs by at most
    c u |x| |y|, whatever the order of summation (Higham 2002, Accuracy and Stability of Numerical
    Algorithms, Eq. 3.5), so all chunks, taken twice, by c u N; the subtraction of each chunk errs
    by 2 u N; norms, their sum and comparisons by a few u N; the squares by differences by twice
    the number of dimensions times float64's u N. The last term is underflow.
    """
    width, info = x.values.shape[2], torch.finfo(dtype)
    chunks = -(-width // _CHUNK)
    relative = (min(width, _CHUNK) + 2 * chunks + 16) * info.eps / 2
    relative += (width + 2) * torch.finfo(torch.float64).eps  # twice its unit roundoff
    return relative * (x.norms.amax(dim=1) + y.largest_norm) + 8 * width * info.tiny


def _squares_by_differences(x: Tensor, y: Tensor, rows: IntArray, columns: IntArray) -> FloatArray:
    """Return the squared distances, the largest over parts, of finite pairs from differences.

    Each pair is summed in the same order whatever other pairs are there.
    """
    left, right = x.numpy(), y.numpy()
    _, parts, width = left.shape
    squares = np.empty(len(rows))
    size, piece = max(1, _PIECE // (parts * width)), max(1, _PIECE // parts)

    def compare(start: int) -> None:
        pairs = slice(start, start + size)
        sums = np.zeros((len(rows[pairs]), parts))
        for first in range(0, width, piece):
            dimensions = slice(first, first + piece)
            a, b = left[rows[pairs], :, dimensions], right[columns[pairs], :, dimensions]
            difference = np.subtract(a, b, dtype=np.float64)
            sums += np.einsum("npd,npd->np", difference, difference)
        squares[pairs] = sums.max(axis=1)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(compare, range(0, len(rows), size)))
    return squares


def _distances(metric: Metric, squares: FloatArray) -> FloatArray:
    return squares if metric.squared else np.sqrt(squares)


def _where(chosen: Tensor) -> tuple[IntArray, IntArray]:
    rows, columns = chosen.nonzero(as_tuple=True)
    return rows.numpy(), columns.numpy()


def _rows_of_block() -> int:
    """Return how many rows of each side make a block of pairs."""
    return math.isqrt(_BLOCK_BYTES // _PAIR_BYTES)


def _check_comparable(a: Tensor, b: Tensor) -> None:
    if a.shape[1:] != b.shape[1:]:
        raise UsageError(
            f"Embeddings of shapes {tuple(a.shape[1:])} and {tuple(b.shape[1:])} cannot be "
            "compared: bring all images to one size first."
        )
