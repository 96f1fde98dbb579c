"""Observations of every dtype and of empty parts: read exactly, or refused in words when built."""

from __future__ import annotations

from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from puffer_policies import Agent, Spaces, get_policy
from puffer_policies.config.schema import TrainConfig
from puffer_policies.errors import IncompatibleSpace
from puffer_policies.nn.features import make_features
from puffer_policies.nn.observations import to_tensor
from puffer_policies.spaces import action_layout
from puffer_policies.spaces.nested import map_nested

TWO = spaces.Discrete(2)
INTEGERS = [f"{kind}int{bits}" for kind in ("", "u") for bits in (8, 16, 32, 64)]
NUMBERS = ["uint8", "uint16", "uint32", "uint64", "int64", "bool", "float16", "float64"]


def takes_dtypes(cls):
    return "dtype" in cls.__init__.__annotations__


CHOICES = {
    "Discrete": lambda dtype: spaces.Discrete(5, start=3, dtype=dtype),
    "MultiDiscrete": lambda dtype: spaces.MultiDiscrete([4, 5], start=[0, 3], dtype=dtype),
}
BOXES = {
    "vector": lambda dtype: spaces.Box(0, 1, (5,), dtype),
    "image": lambda dtype: spaces.Box(0, 1, (1, 8, 8), dtype),
    "entities": lambda dtype: spaces.Box(0, 1, (4, 3), dtype),
    "set": lambda dtype: spaces.Dict(
        entities=spaces.Box(0, 1, (4, 3), dtype), mask=spaces.Box(0, 1, (4,), dtype)
    ),
}
READERS = {
    "Discrete": ("DiscreteEmbed(hidden_size=8, embedding_size=4)",),
    "MultiDiscrete": ("DiscreteEmbed(hidden_size=8, embedding_size=4)",),
    "entities": ("DeepSets(hidden_size=8, entity_size=4, padding=0)",),
    "set": ("DeepSets(hidden_size=8, entity_size=4)",),
}
MULTI_INPUT = "MultiInput(hidden_size=8, vector_size=8, image_size=8)"
WRAPPERS = ("FrameStackWrapper", "PrevActionRewardWrapper", "SeparateCriticWrapper", "LSTMWrapper")
ANY_SPACE = (MULTI_INPUT, *(f"{each}(Default(hidden_size=8))" for each in WRAPPERS))


def make_spaces():
    makers = {name: (make, NUMBERS) for name, make in BOXES.items()}
    if takes_dtypes(spaces.Discrete):  # not in gymnasium 0.29
        makers |= {name: (make, INTEGERS) for name, make in CHOICES.items()}
    return {
        (name, dtype): make(np.dtype(dtype).type)
        for name, (make, dtypes) in makers.items()
        for dtype in dtypes
    }


SPACES = make_spaces()


def built(name, space):
    torch.manual_seed(0)
    return get_policy(name, Spaces(space, TWO), validate="off")


@torch.no_grad()
def numbers(policy, observations):
    logits, values = policy(observations, {})
    return torch.cat([logits, values.reshape(len(logits), 1)], -1)


def batch_of(space, rows):
    space.seed(0)
    samples = [space.sample() for _ in range(rows)]
    return map_nested(lambda *leaf: np.stack([np.asarray(each) for each in leaf]), *samples)


@pytest.mark.parametrize(("kind", "dtype"), SPACES)
def test_a_dtype_changes_no_number(kind, dtype):
    """Tensors of the env's dtype, and those that trainers make, are read as wide ones are."""
    space = SPACES[kind, dtype]
    batch = batch_of(space, 4)
    wide = torch.int64 if np.dtype(dtype).kind in "iu" else torch.float32

    def in_sequence(tensor):
        return tensor.reshape(2, 2, *tensor.shape[1:])

    raw = map_nested(lambda leaf: in_sequence(torch.from_numpy(leaf)), batch)
    of_trainer = map_nested(lambda leaf: in_sequence(to_tensor(leaf)), batch)
    plain = map_nested(lambda leaf: leaf.to(wide), raw)
    for name in (*ANY_SPACE, *READERS.get(kind, ())):
        policy = built(name, space)
        expected = numbers(policy, plain)
        assert torch.equal(numbers(policy, raw), expected), name
        assert torch.equal(numbers(policy, of_trainer), expected), name


@pytest.mark.parametrize("dtype", [each for each in INTEGERS if ("Discrete", each) in SPACES])
def test_the_last_option_of_a_dtype_is_one_of_its_own(dtype):
    last = min(np.iinfo(dtype).max, 2**63 - 1)
    space = spaces.Discrete(3, start=last - 2, dtype=np.dtype(dtype).type)
    options = np.array([last - 2, last - 1, last], dtype)
    torch.testing.assert_close(make_features(space)(torch.from_numpy(options)), torch.eye(3))
    stacked = built("FrameStackWrapper(DiscreteEmbed)", space)
    assert len(numbers(stacked, torch.from_numpy(options)).unique(dim=0)) == 3


@pytest.mark.parametrize("dtype", [each for each in INTEGERS if ("MultiDiscrete", each) in SPACES])
def test_a_choice_with_as_many_options_as_its_dtype_counts_is_stacked(dtype):
    count = min(np.iinfo(dtype).max, 300)
    space = spaces.MultiDiscrete([count], dtype=np.dtype(dtype).type)
    policy = built("FrameStackWrapper(Default)", space)
    assert policy.policy.spaces.observation.nvec.tolist() == [count + 1] * 4
    assert numbers(policy, torch.from_numpy(batch_of(space, 2))).shape == (2, 3)


BEYOND = {
    "box": spaces.Box(0, np.iinfo(np.uint64).max, (2,), np.uint64),
    "part": spaces.Dict(a=spaces.Box(0, 2**63, (2,), np.uint64), b=TWO),
}
if ("Discrete", "uint64") in SPACES:
    BEYOND["discrete"] = spaces.Discrete(2, start=2**63 - 1, dtype=np.uint64)
    BEYOND["several"] = spaces.MultiDiscrete([1, 3], start=[0, 2**63 - 1], dtype=np.uint64)


@pytest.mark.parametrize("space", BEYOND.values(), ids=BEYOND)
@pytest.mark.parametrize("name", ["Default", "MultiInput", "FrameStackWrapper(Default)"])
def test_integers_that_no_tensor_holds_are_refused_when_built(space, name):
    with pytest.raises(IncompatibleSpace, match=r"goes beyond 2\*\*63 - 1"):
        built(name, space)


def test_arrays_of_other_byte_orders_and_widths_become_tensors():
    for dtype in (">u2", ">i8", ">f4", "<f4", np.longdouble, "u8", ">u8"):
        array = np.array([1, 2, 200], dtype)
        assert to_tensor(array).tolist() == [1, 2, 200]
    for array in (np.array(["a"]), np.array([1j]), np.array([None])):
        with pytest.raises(IncompatibleSpace, match=f"array of {array.dtype}"):
            to_tensor(array)


@pytest.mark.parametrize("dtype", ["uint64", "int64", "uint8", "bool"])
def test_actions_of_every_integer_box_are_members_of_it(dtype):
    high = 1 if dtype == "bool" else np.iinfo(dtype).max
    low = 0 if dtype == "bool" else high - 3
    space = spaces.Box(low, high, (2,), np.dtype(dtype).type)
    layout = action_layout(space)
    assert layout.nvec == ((2, 2) if dtype == "bool" else (4, 4))
    first, last = (layout.to_env(np.full((1, 2), n))[0] for n in (0, layout.nvec[0] - 1))
    assert first.dtype == space.dtype
    np.testing.assert_array_equal(first, space.low)
    np.testing.assert_array_equal(last, space.high)


class Sampled(gymnasium.Env):
    """Draws its observations."""

    def __init__(self, space):
        self.observation_space, self.action_space = space, TWO

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 1.0, bool(action), False, {}


EMPTY = {
    "box": spaces.Box(-1, 1, (0,)),
    "matrix": spaces.Box(-1, 1, (3, 0)),
    "integers": spaces.Box(0, 9, (0, 4, 4), np.uint16),
    "dict": spaces.Dict({}),
    "tuple": spaces.Tuple([]),
    "nested": spaces.Dict(a=spaces.Tuple([spaces.Box(0, 1, (0,))]), b=spaces.Dict({})),
}
FULL = spaces.Box(-1, 1, (3,))
NORMALIZED = "NormalizeObservationWrapper(Default(hidden_size=8))"


@pytest.mark.parametrize("name", [*ANY_SPACE, "Default", NORMALIZED])
@pytest.mark.parametrize("kind", EMPTY)
def test_an_empty_observation_is_refused_when_built(name, kind):
    with pytest.raises(IncompatibleSpace, match=r"is empty(.|\n)*Observe a constant"):
        built(name, EMPTY[kind])


@pytest.mark.parametrize("name", [*ANY_SPACE, NORMALIZED])
@pytest.mark.parametrize("kind", EMPTY)
def test_an_empty_part_adds_nothing(name, kind):
    without = built(name, spaces.Dict(x=FULL))
    policy = built(name, spaces.Dict(a=EMPTY[kind], x=FULL, z=EMPTY[kind]))
    size = sum(each.numel() for each in without.parameters())
    assert sum(each.numel() for each in policy.parameters()) == size
    part = map_nested(torch.from_numpy, batch_of(EMPTY[kind], 4))
    x = torch.randn(4, 3)
    expected = numbers(without, {"x": x})
    assert torch.equal(numbers(policy, {"a": part, "x": x, "z": part}), expected)


def test_what_entities_have_in_common_may_be_empty():
    layout = {"entities": spaces.Box(-1, 1, (4, 3)), "goal": spaces.Dict({})}
    policy = built("DeepSets", spaces.Dict(layout))
    entities = torch.randn(2, 4, 3)
    without = built("DeepSets", spaces.Dict(entities=layout["entities"]))
    expected = numbers(without, {"entities": entities})
    assert torch.equal(numbers(policy, {"entities": entities, "goal": {}}), expected)


TRAINED = {
    "uint16": spaces.Dict(a=spaces.Box(0, 9, (2,), np.uint16), b=spaces.Box(0, 1, (0,))),
    "empty": spaces.Tuple([FULL, spaces.Box(-1, 1, (0,)), spaces.Box(0, 9, (1,), np.uint64)]),
}


@pytest.mark.trainer
@pytest.mark.parametrize(
    ("kind", "wrapper"),
    [
        ("uint16", "{}"),
        ("uint16", "FrameStackWrapper({})"),
        ("empty", "NormalizeObservationWrapper({})"),
    ],
)
def test_such_envs_are_trained_and_played_in(kind, wrapper):
    # The rest of this file needs no trainer, and runs with the oldest gymnasium as well.
    from gymnasium.vector import AutoresetMode, SyncVectorEnv
    from training_toys import run

    from puffer_policies.train.trainer import Trainer
    from puffer_policies.vector.gymnasium_envs import GymVecEnv

    space = TRAINED[kind]
    envs = SyncVectorEnv([partial(Sampled, space)] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    vecenv = GymVecEnv(envs)
    policy = get_policy(wrapper.format("Default(hidden_size=8)"), vecenv)
    trainer = Trainer(TrainConfig(bptt_horizon=8, total_timesteps=32), vecenv, policy)
    assert np.isfinite(run(trainer)["losses/total"])
    space.seed(0)
    assert Agent(policy).act(space.sample()) in (0, 1)
    vecenv.close()
