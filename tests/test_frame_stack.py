"""Frames are gymnasium's, start anew with each episode, and a sequence is its steps."""

from __future__ import annotations

import copy

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces as gym_spaces
from gymnasium import wrappers
from gymnasium.vector.utils import batch_space

from puffer_policies.assembly.factory import get_policy
from puffer_policies.errors import BuildError, IncompatibleSpace
from puffer_policies.nn.features import make_features
from puffer_policies.spaces import Spaces, image_layout
from puffer_policies.spaces.nested import map_nested
from puffer_policies.wrappers.frame_stack import frames_of

VECTOR = gym_spaces.Box(-1.0, 1.0, (3,))
ACTIONS = gym_spaces.Discrete(4)


def stacked_policy(space=VECTOR, *, frames=4):
    return get_policy(f"FrameStackWrapper(Default, frames={frames})", Spaces(space, ACTIONS))


def seen_by(policy, observations, state):
    with torch.no_grad():
        return policy.transform_observations(observations, state)


@pytest.mark.trainer
def test_the_policy_inside_sees_gymnasiums_stack():
    env = wrappers.FrameStackObservation(gymnasium.make("CartPole-v1"), 4, padding_type="zero")
    policy = get_policy("FrameStackWrapper(Default)", "CartPole-v1")
    expected, _ = env.reset(seed=3)
    state, start = {}, True
    for action in [0, 1, 1, 0, 1, 0, 0]:
        state["episode_start"] = torch.tensor([start])
        own = seen_by(policy, torch.from_numpy(expected[-1])[None], state)
        np.testing.assert_array_equal(own.numpy()[0], expected.reshape(-1))
        expected, *_ = env.step(action)
        start = False
    env.close()


@pytest.mark.parametrize("frames", [1, 2, 4])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_sequence_is_its_steps_wherever_episodes_start(frames, share):
    policy = stacked_policy(frames=frames)
    observations, starts = torch.randn(5, 9, 3), torch.rand(5, 9) < share
    before = {key: torch.randn_like(value) for key, value in policy.initial_state(5).items()}
    whole = {**before, "episode_start": starts}
    with torch.no_grad():
        logits, values = policy(observations, whole)
        state = dict(before)
        for t in range(9):
            state["episode_start"] = starts[:, t]
            step, value = policy.forward_eval(observations[:, t], state)
            torch.testing.assert_close(logits.reshape(5, 9, -1)[:, t], step)
            torch.testing.assert_close(values[:, t], value.squeeze(-1))
    torch.testing.assert_close(whole["frames"], state["frames"])


def test_what_ended_is_gone_even_if_it_was_no_number():
    policy = stacked_policy()
    state = {"frames": torch.full((1, 3, 3), torch.nan), "episode_start": torch.tensor([True])}
    assert seen_by(policy, torch.ones(1, 3), state).tolist() == [[0.0] * 9 + [1.0] * 3]


@pytest.mark.parametrize("shape", [(1, 40, 40), (40, 40, 1)])
def test_images_are_stacked_along_their_channels(shape):
    space = gym_spaces.Box(0, 255, shape, np.uint8)
    policy = get_policy("FrameStackWrapper(Convolutional)", Spaces(space, ACTIONS))
    frames = [torch.full((2, *shape), k, dtype=torch.uint8) for k in range(4)]
    state = {}
    for frame in frames:
        own = seen_by(policy, frame, state)
    axis = 1 if shape[0] == 1 else 3
    assert own.dtype is torch.uint8
    torch.testing.assert_close(own, torch.cat(frames, axis))


LEAVES = [
    gym_spaces.Discrete(5, start=-2),
    gym_spaces.MultiDiscrete(np.array([[2, 3], [4, 2]])),
    gym_spaces.MultiBinary(3),
    gym_spaces.Box(-1.0, 1.0, (2, 2), np.float32),
]
NESTED = gym_spaces.Dict(
    {"b": gym_spaces.Tuple(LEAVES), "a": gym_spaces.Box(0, 255, (1, 9, 9), np.uint8)}
)


def sample(space, *batch):
    """Random observations of a space, with `batch` axes in front."""
    number = int(np.prod(batch))
    vector = batch_space(space, number)
    vector.seed(0)
    rows = map_nested(torch.from_numpy, dict_or_tuple(vector.sample()))
    return map_nested(lambda leaf: leaf.reshape(*batch, *leaf.shape[1:]), rows)


def dict_or_tuple(tree):
    if isinstance(tree, dict):
        return {key: dict_or_tuple(value) for key, value in tree.items()}
    return tuple(map(dict_or_tuple, tree)) if isinstance(tree, tuple) else tree


@pytest.mark.parametrize("space", [*LEAVES, NESTED], ids=str)
def test_every_leaf_is_stacked_as_the_space_inside_says(space):
    policy = stacked_policy(space, frames=3)
    inside = policy.policy.spaces.observation
    for observations in (sample(space, 6), sample(space, 6)):
        state = policy.initial_state(6)
        seen = seen_by(policy, observations, state)
        for row in range(6):
            member = map_nested(lambda leaf, row=row: leaf[row].numpy(), seen)
            assert inside.contains(member)


@pytest.mark.parametrize("space", [*LEAVES, NESTED], ids=str)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_sequence_of_any_leaves_is_its_steps(space, share):
    policy = stacked_policy(space, frames=3)
    observations, starts = sample(space, 4, 7), torch.rand(4, 7) < share
    whole, state = ({**policy.initial_state(4)} for _ in range(2))
    seen = seen_by(policy, observations, {**whole, "episode_start": starts})
    for t in range(7):
        step = map_nested(lambda leaf, t=t: leaf[:, t], observations)
        state["episode_start"] = starts[:, t]
        alone = seen_by(policy, step, state)
        map_nested(lambda leaf, one, t=t: assert_equal(leaf[:, t], one), seen, alone)


def assert_equal(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_choices_say_where_nothing_was_seen_yet():
    policy = stacked_policy(gym_spaces.Discrete(5, start=-2), frames=3)
    assert policy.policy.spaces.observation == gym_spaces.MultiDiscrete([6, 6, 6])
    state = {}
    assert seen_by(policy, torch.tensor([-2, 2]), state).tolist() == [[0, 0, 1], [0, 0, 5]]
    assert seen_by(policy, torch.tensor([0, -1]), state).tolist() == [[0, 1, 3], [0, 5, 2]]


def test_the_state_names_its_leaves():
    shapes = {
        key: tuple(value.shape) for key, value in stacked_policy(NESTED).initial_state(2).items()
    }
    assert shapes == {
        "frames.a": (2, 3, 1, 9, 9),
        "frames.b.0": (2, 3),
        "frames.b.1": (2, 3, 2, 2),
        "frames.b.2": (2, 3, 3),
        "frames.b.3": (2, 3, 2, 2),
    }


def test_a_space_without_known_frames_is_refused():
    with pytest.raises(IncompatibleSpace, match="how its frames stand side by side"):
        frames_of(gym_spaces.Text(3), 2)


@pytest.mark.parametrize("shape", [(3, 8, 8), (8, 8, 3)])
def test_images_stay_images_however_many_channels_their_frames_have(shape):
    space = gym_spaces.Box(0, 255, shape, np.uint8)
    policy = stacked_policy(space)
    inside = policy.policy.spaces.observation
    assert image_layout(inside) == image_layout(space)
    assert copy.deepcopy(inside) == inside
    with torch.no_grad():
        white = seen_by(policy, torch.full((2, *shape), 255, dtype=torch.uint8), {})
        features = make_features(inside)(white)
    assert features.max() == 1


def test_no_frames_and_two_memories_are_refused():
    with pytest.raises(BuildError, match="frames=0"):
        stacked_policy(frames=0)
    with pytest.raises(BuildError, match="forbids 'recurrent'"):
        get_policy("LSTMWrapper(FrameStackWrapper(Default))", Spaces(VECTOR, ACTIONS))
