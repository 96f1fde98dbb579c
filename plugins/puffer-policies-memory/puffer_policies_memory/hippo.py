"""The matrix that S5 begins from: HiPPO's normal part, in the basis in which it is diagonal.

Gu et al. 2020, https://arxiv.org/abs/2008.07669, for the matrix; Smith et al. 2023,
https://arxiv.org/abs/2208.04933, for its use.
"""

from __future__ import annotations

import torch
from torch import Tensor

RATE = 0.5
"""Every eigenvalue of the normal part of HiPPO-LegS has the real part -1/2."""


def hippo_basis(size: int) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues' imaginary parts that are positive, and their eigenvectors.

    The others are their conjugates, which a real output does not need.

    Args:
        size: of the matrix, an even number.

    Returns:
        (size/2,) float64 and (size, size/2) complex128.
    """
    roots = torch.sqrt(torch.arange(size, dtype=torch.float64) + 0.5)
    lower = torch.outer(roots, roots).tril(-1)
    frequencies, vectors = torch.linalg.eigh(1j * (lower - lower.T))
    return frequencies[size // 2 :], vectors[:, size // 2 :]
