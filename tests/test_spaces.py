"""spaces_of reads the spaces of whatever serves as an env."""

from __future__ import annotations

import subprocess
import sys

import pytest
from gymnasium.spaces import Box, Discrete

from puffer_policies.spaces import spaces_of


def test_the_spaces_of_an_id_are_those_of_the_env_that_a_maker_returns():
    closed = []

    class Env:
        observation_space, action_space = Box(-1, 1, (3,)), Discrete(2)

        def close(self):
            closed.append(self)

    spaces = spaces_of("acme/Grid-v0", make=lambda env_id: Env())
    assert (spaces.observation, spaces.action) == (Env.observation_space, Env.action_space)
    assert len(closed) == 1


@pytest.mark.trainer  # our own envs are vector envs of gymnasium 1.1
def test_ids_of_ours_need_no_import_of_the_user():
    code = (
        "from puffer_policies.spaces import spaces_of\n"
        "assert spaces_of('puffer_policies/Chain-v0').action is not None\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
