"""Frames are gymnasium's, start anew with each episode, and a sequence is its steps."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces as gym_spaces
from gymnasium import wrappers

from puffer_policies.errors import BuildError, IncompatibleSpace
from puffer_policies.factory import get_policy
from puffer_policies.spaces import Spaces

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


def test_keys_have_no_frames():
    space = gym_spaces.Dict({"a": VECTOR})
    with pytest.raises(IncompatibleSpace, match="frames of dict"):
        stacked_policy(space)


def test_frames_that_nobody_would_take_for_an_image_are_refused():
    space = gym_spaces.Box(0, 255, (3, 8, 8), np.uint8)
    with pytest.raises(IncompatibleSpace, match=r"shape \(12, 8, 8\)"):
        stacked_policy(space)


def test_no_frames_and_two_memories_are_refused():
    with pytest.raises(BuildError, match="frames=0"):
        stacked_policy(frames=0)
    with pytest.raises(BuildError, match="recurrent already"):
        get_policy("LSTMWrapper(FrameStackWrapper(Default))", Spaces(VECTOR, ACTIONS))
