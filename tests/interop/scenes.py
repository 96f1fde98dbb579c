"""Spaces, stacks and envs on which the trainers of others are tried."""

from __future__ import annotations

import copy

import gymnasium
import numpy as np
from gymnasium import spaces

from puffer_policies import Spaces
from puffer_policies.nn.distributions import distribution

VECTOR, CHOICE = spaces.Box(-1.0, 1.0, (4,), np.float32), spaces.Discrete(3)
MASK = spaces.Box(0, 1, (3,), np.int8)
SMALL = "hidden_size=16"
PAIRS = {
    "vector-discrete": Spaces(VECTOR, CHOICE),
    "image-multidiscrete": Spaces(
        spaces.Box(0, 255, (36, 36, 3), np.uint8), spaces.MultiDiscrete([3, 2])
    ),
    "dict-multibinary": Spaces(
        spaces.Dict({"at": VECTOR, "kind": spaces.Discrete(4)}), spaces.MultiBinary(3)
    ),
    "discrete-box": Spaces(spaces.Discrete(5), spaces.Box(-1.0, 0.5, (2,), np.float32)),
}
MEMORIES = [
    f"{name}(Default({SMALL}))"
    for name in ("LSTMWrapper", "GRUWrapper", "MinGRUWrapper", "FrameStackWrapper")
]


class RandomEnv(gymnasium.Env):
    """Random observations and rewards, in episodes of 3 to 7 steps, some of which are cut off."""

    def __init__(self, pair: Spaces, seed: int, *, masked: bool = False) -> None:
        self.observation_space, self.action_space = pair.observation, pair.action
        self.observation_space.seed(seed)
        self.random, self.masked, self.taken = np.random.default_rng(seed), masked, []
        self.mask = np.ones(3, np.int8)

    def observe(self):
        observation = self.observation_space.sample()
        if self.masked:
            self.mask = np.array([1, 0, 0], np.int8)
            self.mask[self.random.integers(3)] = 1
            if isinstance(observation, dict):
                observation["mask"] = self.mask.copy()
        return observation

    def action_masks(self):
        return self.mask.astype(bool)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.random.integers(3, 8))
        return self.observe(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        if self.masked:
            assert self.mask[action]
        self.left -= 1
        over = self.left == 0
        cut = over and bool(self.random.integers(2))
        return self.observe(), float(self.random.normal()), over and not cut, cut, {}


def pair_of(pair):
    """Return spaces of its own, as envs draw from them."""
    return copy.deepcopy(pair.observation), copy.deepcopy(pair.action)


def same_step_envs(makers):
    """Return vector envs that reset in the step in which an episode ends, as all once did."""
    modes = getattr(gymnasium.vector, "AutoresetMode", None)
    options = {"autoreset_mode": modes.SAME_STEP} if modes else {}
    return gymnasium.vector.SyncVectorEnv(makers, **options)


class MaskInObservation(gymnasium.ObservationWrapper):
    """Masked recall as RecurrentPPO can play it: its mask stands in the observation."""

    def __init__(self) -> None:
        # Here, as the games need a gymnasium that PufferLib's trainer does not go with.
        from puffer_policies.envs.recall import MaskedRecallEnv

        super().__init__(MaskedRecallEnv())
        mask = spaces.Box(0, 1, (4,), np.int8)
        self.observation_space = spaces.Dict({"symbol": self.env.observation_space, "mask": mask})

    def reset(self, **options):
        observation, info = self.env.reset(**options)
        return {"symbol": observation, "mask": np.array(info["action_mask"])}, info

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        seen = {"symbol": observation, "mask": np.array(info["action_mask"])}
        return seen, reward, terminated, truncated, info


def numbers(policy, observations, actions, state=None):
    """Return values, log-probabilities and entropies by the policy itself."""
    logits, values = policy(observations, state)
    chances = distribution(logits)
    return values.flatten(), chances.log_prob(actions), chances.entropy()
