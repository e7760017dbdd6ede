"""GPTQ: rounding that lets the weights still to be rounded make up for what rounding has cost so far.

Frantar, Ashkboos, Hoefler, Alistarh: GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers, 2022, arXiv:2210.17323. A linear layer's error over its inputs X is tr((W - Q) H (W - Q)^T), H = X^T X.
Going through the input channels in order, each is rounded, and its error is spread over the channels that follow as H
says. A block's grid is fitted when its turn comes, to the weights as they are by then; and, other than in the paper, by
what an error at each of its channels costs after all that is made up for, 1 / U_ii^2 (see `factor`): that takes the
loss of SmolLM2-135M's stand-in (benchmarks/int4_recipes.md) from 6.4 to 2.3 % of perplexity.
"""

import numpy as np

from pipeline.core.dtypes import Floats
from pipeline.quantization.grids import Grid, closest, nearest

DAMPING = 0.01  # of the mean diagonal of H, added to it, as in the paper: channels that the text hardly uses
AT_ONCE = 128  # channels whose errors are spread over all others in one product


def gptq(rows: Floats, factor: Floats, block: int, bits: int, *, centered: bool) -> Grid:
    """Rows [N, K] on grids of `bits` bits in blocks of `block` values, around 0 or, of 4 bits, around a center.

    factor: [K, K], what the function `factor` makes of H.
    """
    n, k = rows.shape
    importance = np.diag(factor) ** -2
    rest = np.array(rows.T, order="C")  # [K, N], a copy: a channel lies together
    q = np.empty((k, n), np.int8)
    scale, center = np.zeros((2, k // block, n), np.float32)
    width = AT_ONCE // block * block or AT_ONCE  # a block begins with all errors before it spread
    for start in range(0, k, width):
        stop = min(start + width, k)
        errors = np.empty((stop - start, n), np.float32)
        for i in range(start, stop):
            b = i // block
            if i % block == 0:
                here = slice(i, i + block)
                part = np.ascontiguousarray(rest[here].T)
                if bits == 8:
                    grid = nearest(part, block, bits)
                else:
                    grid = closest(part, block, bits, centered=centered, importance=importance[here])
                scale[b] = grid.scale[:, 0]
                center[b] = 0 if grid.center is None else grid.center[:, 0]
            levels = np.rint((rest[i] - center[b]) / scale[b]).clip(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            q[i] = levels
            error = (rest[i] - levels * scale[b] - center[b]) / factor[i, i]
            rest[i + 1 : stop] -= factor[i, i + 1 : stop, None] * error
            errors[i - start] = error
        rest[stop:] -= factor[start:stop, stop:].T @ errors
    q, scale, center = (np.ascontiguousarray(array.T) for array in (q, scale, center))
    return Grid(q, scale, center if centered else None, bits)


def factor(moments: Floats) -> Floats:
    """The upper triangular U [K, K] with U^T U = (H + damping)^-1; moments: H = X^T X of a layer's inputs, fp32 [K, K].

    Row i says how an error at channel i is made up for by the channels after it; U_ii^2 is the reciprocal of what a
    squared error there costs then. An input that is always 0 costs nothing, and counts as 1.
    """
    h = moments.astype(np.float64)
    diagonal = np.diag(h).copy()
    h[np.diag_indices_from(h)] += DAMPING * diagonal.mean() + (diagonal == 0)
    # reversed twice, the lower triangle of Cholesky is an upper one R with R R^T = H, and U its inverse
    upper = np.triu(np.linalg.inv(np.linalg.cholesky(h[::-1, ::-1]))[::-1, ::-1])
    return upper.astype(np.float32)
