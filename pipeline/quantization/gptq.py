"""GPTQ: rounding that lets the weights still to be rounded compensate for the errors made so far.

Frantar, Ashkboos, Hoefler, Alistarh: GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers, 2022, arXiv:2210.17323. A linear layer's error over its inputs X is tr((W - Q) H (W - Q)^T), H = X^T X.
Going through the input channels in order, each is rounded, and its error is spread over the channels that follow as H
says. Unlike in the paper, a block's grid is fitted when its turn comes, to the weights as they are by then, and each
channel counts by what an error there costs after compensation, 1 / U_ii^2 (`inverse_hessian_cholesky`). That takes
the loss of SmolLM2-135M's stand-in (benchmarks/int4_recipes.md) from 6.4 to 2.3 % of perplexity.
"""

import numpy as np

from pipeline.core.arrays import Floats
from pipeline.core.tables.formats import Format
from pipeline.quantization.grids import Grid, integer_range, round_rows

DAMPING = 0.01  # of the mean diagonal of H, added to it as in the paper, for channels that the text hardly uses
AT_ONCE = 128  # channels whose errors are spread over all others in one product


def gptq(rows: Floats, cholesky: Floats, block: int, fmt: Format, *, offset: bool) -> Grid:
    """Rows [N, K] on grids of an integer format in blocks of `block` values, around 0 or with an offset each.

    cholesky: [K, K], from `inverse_hessian_cholesky`.
    """
    n, k = rows.shape
    low, high = integer_range(fmt)
    importance = np.diag(cholesky) ** -2
    rest = np.array(rows.T, order="C")  # [K, N], a copy in which a channel is contiguous
    q = np.empty((k, n), np.int8)
    scales, offsets = np.zeros((2, k // block, n), np.float32)
    width = AT_ONCE // block * block or AT_ONCE  # a block begins with all errors before it spread
    for start in range(0, k, width):
        stop = min(start + width, k)
        errors = np.empty((stop - start, n), np.float32)
        for i in range(start, stop):
            b = i // block
            if i % block == 0:
                channels = slice(i, i + block)
                part = np.ascontiguousarray(rest[channels].T)
                grid = round_rows(part, block, fmt, offset=offset, importance=importance[channels])
                scales[b] = grid.scale[:, 0]
                offsets[b] = 0 if grid.offset is None else grid.offset[:, 0]
            levels = np.rint((rest[i] - offsets[b]) / scales[b]).clip(low, high)
            q[i] = levels
            error = (rest[i] - levels * scales[b] - offsets[b]) / cholesky[i, i]
            rest[i + 1 : stop] -= cholesky[i, i + 1 : stop, None] * error
            errors[i - start] = error
        rest[stop:] -= cholesky[start:stop, stop:].T @ errors
    q, scales, offsets = (np.ascontiguousarray(array.T) for array in (q, scales, offsets))
    return Grid(q, scales, offsets if offset else None, fmt)


def inverse_hessian_cholesky(hessian: Floats) -> Floats:
    """The upper triangular U [K, K] with U^T U = (H + damping)^-1; hessian: H = X^T X of a layer's inputs, fp32 [K, K].

    Row i says how the channels after channel i compensate for an error there; U_ii^2 is the reciprocal of what a
    squared error there costs then. An input that is always 0 costs nothing, and counts as 1.
    """
    h = hessian.astype(np.float64)
    diagonal = np.diag(h).copy()
    h[np.diag_indices_from(h)] += DAMPING * diagonal.mean() + (diagonal == 0)
    # reversed twice, Cholesky's lower triangle is an upper one R with R R^T = H, and U its inverse
    upper = np.triu(np.linalg.inv(np.linalg.cholesky(h[::-1, ::-1]))[::-1, ::-1])
    return upper.astype(np.float32)
