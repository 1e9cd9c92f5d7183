"""Image distances as embeddings, so that all pairs are matrix products.

Every distance here is the largest Euclidean distance (or its square) between corresponding parts of
two embeddings. One search therefore serves all of them: float32 products leave out what cannot be
among the nearest by a bound on their rounding, and the few that remain are compared by differences
in float64.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from m2g_audit.errors import UsageError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Bytes of the temporaries of one block of pairs, beside the embeddings themselves; a few times as
# many where all pairs must be compared again. (Two embeddings longer than this come one at a time.)
_BLOCK_BYTES = 64 * 2**20
# Bytes of one pair in a block: its square, a product, one part's square, the selection.
_PAIR_BYTES = 32
# Dimensions multiplied at once, so that rounding grows with their number and not with all.
_CHUNK = 1024
# Squared distances below this share of the squared norms are taken again from differences:
# a^2 + b^2 - 2ab has lost its digits there.
_CANCELLATION = 1e-6
# Squared norms between which float32 products neither overflow nor lose all their digits.
_FLOAT32_RANGE = (1e-30, 1e30)


class Metric(ABC):
    """A distance between images, given by where it embeds them.

    `distance(a, b)` is the maximum over parts of ‖a_part - b_part‖, or of its square if `squared`.
    weights_sha256: of the file that its weights came from, None if it has none.
    """

    name: str
    squared: bool = False
    weights_sha256: str | None = None

    @torch.no_grad()
    def embed(self, images: Tensor, *, batch_size: int = 64) -> Tensor:
        """Return the embeddings of images, float32 [n, parts, d] on the CPU.

        images: [n, 3, h, w], floating point in [0, 1] or uint8 in 0..255. Batches only bound
        memory: the result does not depend on them. A non-finite image has a non-finite embedding.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise UsageError(
                f"Images must be [n, 3, height, width]; got {tuple(images.shape)}. "
                "Repeat a single channel three times."
            )
        if len(images) == 0:
            raise UsageError("There are no images to compare.")
        batches = images.split(batch_size)
        first = self._embed(_as_float(batches[0]))
        # Filled in place: joining the batches would hold all embeddings twice.
        embeddings = torch.empty(len(images), *first.shape[1:], dtype=torch.float32)
        embeddings[:batch_size] = first
        for i, batch in enumerate(batches[1:], start=1):
            embeddings[i * batch_size : (i + 1) * batch_size] = self._embed(_as_float(batch))
        return embeddings

    @abstractmethod
    def _embed(self, images: Tensor) -> Tensor:
        """Return [n, parts, d] of float32 images [n, 3, h, w] in [0, 1]."""


class CosineMetric(Metric):
    """1 - cosine of feature vectors: half the squared distance of unit vectors."""

    squared = True

    def _embed(self, images: Tensor) -> Tensor:
        return torch.nn.functional.normalize(self._features(images).float())[:, None] / 2**0.5

    @abstractmethod
    def _features(self, images: Tensor) -> Tensor:
        """Return features [n, d] of float32 images [n, 3, h, w] in [0, 1]."""


def _as_float(images: Tensor) -> Tensor:
    if images.dtype == torch.uint8:
        return images.to(torch.float32) / 255
    return images.to("cpu", torch.float32)


def distances(metric: Metric, a: Tensor, b: Tensor) -> FloatArray:
    """Return the distances of all pairs, float64 [n, m], of embeddings a [n, p, d] and b [m, p, d].

    Products are in float64; pairs whose digits cancel are recomputed from differences, so equal
    images are at exactly 0, and the relative error is below 1e-6 (for d up to 4 million). A pair
    with a non-finite embedding is at infinity. The whole matrix is returned: use `nearest` where
    n x m is large.
    """
    _check_comparable(a, b)
    x, y = _Vectors.of(a), _Vectors.of(b)
    step = _rows_of_block()
    whole = np.empty((len(a), len(b)))
    for i, left in x.blocks(step):
        for j, right in y.blocks(step):
            squares = _squares(left, right, torch.float64)
            norms = left.norms.amax(dim=1)[:, None] + right.norms.amax(dim=1)
            # Strictly below, which leaves out pairs at infinity.
            rows, columns = _where(squares < _CANCELLATION * norms)
            block = squares.numpy()
            block[rows, columns] = _squares_by_differences(left, right, rows, columns)
            whole[i : i + step, j : j + step] = _distances(metric, block)
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
    x, y = _Vectors.of(queries), _Vectors.of(base)
    step = block or _rows_of_block()
    values = np.full((len(queries), k), np.inf)
    indices = np.full((len(queries), k), len(base))  # behind every image that is there
    for i, left in x.blocks(step):
        stripe = slice(i, i + step)
        for j, right in y.blocks(step):
            same = exclude_self and i == j
            found = _candidates(metric, left, right, k, same, values[stripe, -1])
            values[stripe], indices[stripe] = _merge(values[stripe], indices[stripe], j, *found)
    return values, indices


@dataclass(frozen=True)
class _Vectors:
    """Embeddings [n, p, d] with the squared norms of their parts, float64 [n, p].

    The norm of a part that is not finite is infinite.
    """

    values: Tensor
    norms: Tensor

    @classmethod
    def of(cls, embeddings: Tensor) -> _Vectors:
        values = embeddings.numpy()
        # Converts to float64 piece by piece.
        norms = np.einsum("npd,npd->np", values, values, dtype=np.float64)
        return cls(embeddings, torch.from_numpy(norms).nan_to_num_(nan=torch.inf, posinf=torch.inf))

    def blocks(self, step: int) -> Iterator[tuple[int, _Vectors]]:
        for i in range(0, len(self.values), step):
            yield i, _Vectors(self.values[i : i + step], self.norms[i : i + step])

    @property
    def largest_norm(self) -> float:
        finite = self.norms[self.norms.isfinite()]
        return float(finite.max()) if len(finite) else 0.0


def _candidates(
    metric: Metric, x: _Vectors, y: _Vectors, k: int, same: bool, known: FloatArray
) -> tuple[IntArray, IntArray, FloatArray]:
    """Return rows of x, rows of y and distances of all pairs that can be among the k nearest.

    same: x and y are the same images, and none is its own neighbour; known: the k-th smallest
    distance of each row of x so far. Let S be the squares by products and e a bound on their error.
    At least k pairs of a row are within S_(k) + e, so a pair among the k nearest has
    S <= S_(k) + 2e; and it is not farther than what is known, so S <= known^2 + e.
    """
    low, high = _FLOAT32_RANGE
    fits = low < max(x.largest_norm, y.largest_norm) < high
    dtype = torch.float32 if fits else torch.float64
    squares = _squares(x, y, dtype)
    if same:
        squares.diagonal().fill_(torch.inf)
    error = _error_of_squares(x, y, dtype)
    limit = torch.from_numpy(known if metric.squared else known**2) + error
    if k <= squares.shape[1]:
        smallest = squares.topk(k, dim=1, largest=False).values[:, -1]
        limit = torch.minimum(limit, smallest + 2 * error)
    chosen = squares <= limit[:, None].to(dtype)
    if same:
        chosen.diagonal().fill_(False)
    rows, columns = _where(chosen)
    found = np.full(len(rows), np.inf)
    finite = squares.numpy()[rows, columns] < np.inf
    found[finite] = _squares_by_differences(x, y, rows[finite], columns[finite])
    return rows, columns, _distances(metric, found)


def _merge(
    values: FloatArray,
    indices: IntArray,
    first: int,
    rows: IntArray,
    columns: IntArray,
    found: FloatArray,
) -> tuple[FloatArray, IntArray]:
    """Return the k nearest [n, k] of those known and of the pairs found; columns count from first.

    Of equal distances the lower index comes first.
    """
    n, k = values.shape
    rows = np.concatenate([np.repeat(np.arange(n), k), rows])
    all_indices = np.concatenate([indices.ravel(), columns + first])
    all_values = np.concatenate([values.ravel(), found])
    order = np.lexsort((all_indices, all_values, rows))
    starts = np.searchsorted(rows[order], np.arange(n))
    best = order[starts[:, None] + np.arange(k)]
    return all_values[best], all_indices[best]


def _squares(x: _Vectors, y: _Vectors, dtype: torch.dtype) -> Tensor:
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


def _error_of_squares(x: _Vectors, y: _Vectors, dtype: torch.dtype) -> Tensor:
    """Return a bound, float64 [n], on how far `_squares` are from the squares by differences.

    With unit roundoff u and N = |x|^2 + |y|^2: a product of c dimensions errs by at most
    c u |x| |y|, whatever the order of summation (Higham 2002, Accuracy and Stability of Numerical
    Algorithms, Eq. 3.5), so all chunks, taken twice, by c u N; the subtraction of each chunk errs
    by 2 u N; norms, their sum and the comparison by a few u N; the squares by differences by twice
    the number of dimensions times float64's u N. The last term is underflow.
    """
    width, info = x.values.shape[2], torch.finfo(dtype)
    chunks = -(-width // _CHUNK)
    relative = (min(width, _CHUNK) + 2 * chunks + 16) * info.eps / 2
    relative += (width + 2) * torch.finfo(torch.float64).eps  # twice its unit roundoff
    return relative * (x.norms.amax(dim=1) + y.largest_norm) + 8 * width * info.tiny


def _squares_by_differences(
    x: _Vectors, y: _Vectors, rows: IntArray, columns: IntArray
) -> FloatArray:
    """Return the squared distances, the largest over parts, of finite pairs from differences.

    Each pair is summed in the same order whatever other pairs are there.
    """
    left, right = x.values.numpy(), y.values.numpy()
    squares = np.empty(len(rows))
    # Two float32 copies and the float64 difference.
    size = max(1, _BLOCK_BYTES // (16 * x.values[0].numel()))
    for start in range(0, len(rows), size):
        pairs = slice(start, start + size)
        difference = np.subtract(left[rows[pairs]], right[columns[pairs]], dtype=np.float64)
        squares[pairs] = np.einsum("npd,npd->np", difference, difference).max(axis=1)
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
