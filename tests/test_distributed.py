"""The world of a run: shares of its sizes, and the case of a single process."""

from __future__ import annotations

import pytest
import torch

from puffer_policies.errors import ConfigError
from puffer_policies.train.distributed import ALONE, World


def test_one_process_changes_nothing():
    numbers = torch.ones(2)
    assert ALONE.mean_(numbers) is numbers
    assert numbers.tolist() == [1.0, 1.0]
    assert ALONE.is_main
    assert ALONE.any(True, device=torch.device("cpu"))


def test_a_share_is_whole():
    assert World(rank=1, size=4).share(64, of="vec.num_envs") == 16


def test_unequal_shares_are_explained():
    with pytest.raises(ConfigError) as caught:
        World(size=3).share(64, of="vec.num_envs")
    assert "vec.num_envs 64 / 3 processes = 21.3333 each" in str(caught.value)
    assert "Use 66 or 63" in str(caught.value)
