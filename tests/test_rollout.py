"""Rollouts: the same data from every autoreset mode, exact memory, no silent NaN."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from plain_policies import Plain, PufferLSTM, Split
from training_toys import MODES, SCHEDULES, Clock, clocks

from puffer_policies.config.schema import TrainConfig
from puffer_policies.errors import ContractError, EnvError, TrainingError
from puffer_policies.train import rollout as rollout_module
from puffer_policies.train.trainer import Trainer
from puffer_policies.vector.gymnasium_envs import GymVecEnv
from puffer_policies.wrappers.memory import LSTMWrapper

STEPS = 24
CONFIG = TrainConfig(bptt_horizon=STEPS, minibatch_size=STEPS, scale_rewards=False, seed=3)


def trainer_of(make, env, config=CONFIG):
    torch.manual_seed(0)
    return Trainer(config, env, make(env))


def lstm(env):
    return LSTMWrapper(env, Split(env))


def puffer_lstm(env):
    return PufferLSTM(env, Split(env))


def episodes_of(mode, make, num_rollouts=2):
    """Every transition of whole episodes, by env: observation, reward, value, advantage, end."""
    trainer = trainer_of(make, clocks(mode))
    found = [[] for _ in SCHEDULES]
    for _ in range(num_rollouts):
        rollout = trainer.collect()
        advantages = trainer.estimate(rollout).advantages
        for env, transitions in enumerate(found):
            for t in np.flatnonzero(~rollout.ghost[:, env]):
                observation = rollout.observations[t, env].tolist()
                numbers = (rollout.rewards[t, env], rollout.values[t, env], advantages[t, env])
                ends = (rollout.terminated[t, env], rollout.done[t, env], rollout.starts[t, env])
                transitions.append([*observation, *map(float, (*numbers, *ends))])
    return found


def common_whole_episodes(runs, env, cut):
    """Cut each run at the same number of whole episodes that lie within the first rollout(s)."""
    ends = [[i for i, row in enumerate(run[env]) if row[6]] for run in runs]
    last = min(len(each) for each in ends) - 1 - cut
    return [np.array(run[env][: ends[k][last] + 1]) for k, run in enumerate(runs)]


@pytest.mark.parametrize("make", [Plain, lstm])
def test_every_autoreset_mode_gives_the_same_training_data(make):
    runs = [episodes_of(mode, make, num_rollouts=1) for mode in MODES]
    for env in range(len(SCHEDULES)):
        # The last episode may run into the end of the rollout in one mode and not in another.
        first, *others = common_whole_episodes(runs, env, cut=1)
        assert len(first) > 8
        for other in others:
            np.testing.assert_allclose(other, first, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [Plain, lstm])
@pytest.mark.parametrize("mode", MODES)
def test_a_cut_episode_counts_the_value_of_its_final_observation_and_a_terminated_one_does_not(
    mode, make
):
    trainer = trainer_of(make, clocks(mode, [[(3, "c"), (3, "t")]]))
    rollout = trainer.collect()
    advantages = trainer.estimate(rollout).advantages
    ends = np.flatnonzero(rollout.done[:, 0])[:2]
    for t, terminated in zip(ends, (False, True), strict=True):
        final = _value_of_final(trainer, rollout, t)
        ahead = 0.0 if terminated else CONFIG.gamma * final
        expected = rollout.rewards[t, 0] + ahead - rollout.values[t, 0].item()
        assert advantages[t, 0] == pytest.approx(expected, abs=1e-5)


def _value_of_final(trainer, rollout, t):
    """Replay the episode that ended at `t` from its start, by a fresh state."""
    start = max(s for s in range(t + 1) if rollout.starts[s, 0])
    episode = rollout.observations[start : t + 1, :1]
    final = torch.tensor([[episode[0, 0, 0], rollout.rewards[t, 0]]])  # (episode, time) at the end
    state: dict = {"episode_start": torch.tensor([True])}
    with torch.no_grad():
        for observation in [*episode, final]:
            _, value = trainer.policy.forward_eval(observation, state)
            state["episode_start"] = torch.tensor([False])
    return value.item()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make", [Plain, lstm, puffer_lstm])
def test_before_the_first_gradient_step_nothing_has_changed(make, mode):
    # Memory, episodes that end within segments, several segments of each env, carried state.
    config = dataclasses.replace(
        CONFIG, bptt_horizon=6, batch_size=2 * STEPS, minibatch_size=12, use_rnn=make is not Plain
    )
    trainer = trainer_of(make, clocks(mode), config)
    trainer.collect()
    segments = trainer.estimate(trainer.collect()).segments
    new = trainer.ppo.predict(segments)[1]
    torch.testing.assert_close(new.log_probs, segments.transitions.log_probs)
    torch.testing.assert_close(new.values, segments.transitions.values)


def test_state_is_stored_before_each_segment():
    config = dataclasses.replace(CONFIG, bptt_horizon=6, batch_size=2 * STEPS, minibatch_size=12)
    trainer = trainer_of(lstm, clocks(AutoresetMode.SAME_STEP), config)
    first = trainer.collect().states
    assert len(first) == 4
    assert not first[0]["lstm_h"].any()
    assert first[1]["lstm_h"].any()
    second = trainer.collect().states
    assert second[0]["lstm_h"].any()


class Recalls(Plain):
    """Keeps the tensor of its last observation itself as its state."""

    def initial_state(self, batch_size, device=None):
        return {"seen": torch.zeros(batch_size, 2)}

    def forward_eval(self, observations, state):
        before = state["seen"].masked_fill(state["episode_start"][:, None], 0.0)
        state["seen"] = observations
        return super().forward_eval(observations + before)

    def forward(self, observations, state):
        starts = state["episode_start"]
        seen = torch.cat([state["seen"][:, None], observations[:, :-1]], 1)
        seen = seen.masked_fill(starts[..., None], 0.0) + observations
        return super().forward_eval(seen.flatten(0, 1))


def test_a_state_that_holds_observations_outlives_their_buffers():
    config = dataclasses.replace(CONFIG, bptt_horizon=6, batch_size=2 * STEPS, minibatch_size=12)
    trainer = trainer_of(Recalls, clocks(AutoresetMode.SAME_STEP), config)
    trainer.collect()
    segments = trainer.estimate(trainer.collect()).segments
    new = trainer.ppo.predict(segments)[1]
    torch.testing.assert_close(new.values, segments.transitions.values)


def test_without_memory_every_transition_is_a_segment_of_its_own():
    trainer = trainer_of(Plain, clocks(AutoresetMode.NEXT_STEP))
    segments = trainer.estimate(trainer.collect()).segments
    assert segments.starts.shape == (2 * STEPS, 1)


def test_rollouts_follow_each_other_without_a_gap():
    trainer = trainer_of(Plain, clocks(AutoresetMode.SAME_STEP, [[(1000, "t")]]))
    times = [trainer.collect().observations[:, 0, 1].clone() for _ in range(2)]
    assert torch.cat(times).tolist() == list(range(2 * STEPS))


class Both(Clock):
    observation_space = spaces.Dict(
        z=spaces.Box(-9, 9, (2,), np.float64), a=spaces.Tuple([spaces.Discrete(99)])
    )

    def _shown(self):
        return {"a": (self.time,), "z": super()._shown().astype(np.float64)}


class ReadsBoth(Plain):
    def __init__(self, env):
        super().__init__(Clock_spaces)

    def forward_eval(self, observations, state=None):
        seen = observations["z"] + observations["a"][0][:, None]
        return super().forward_eval(seen, state)


class Clock_spaces:
    single_observation_space = Clock.observation_space
    single_action_space = Clock.action_space


@pytest.mark.parametrize("mode", MODES)
def test_nested_observations_are_trained_on(mode):
    env = GymVecEnv(SyncVectorEnv([lambda: Both([(3, "c"), (2, "t")])], autoreset_mode=mode))
    trainer = trainer_of(ReadsBoth, env)
    rollout = trainer.collect()
    assert rollout.observations["z"].dtype is torch.float32
    assert np.isfinite(trainer.learn(trainer.estimate(rollout))["losses/total"])


class Fickle(VectorEnv):
    """Resets to integers and steps to fractions."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 - so does gymnasium
    num_envs, single_action_space = 2, Clock.action_space
    single_observation_space = Clock.observation_space

    def reset(self, *, seed=None, options=None):
        return np.zeros((2, 2), int), {}

    def step(self, actions):
        never = np.zeros(2, bool)
        return np.full((2, 2), 0.5), np.ones(2), never, never, {}


@pytest.mark.parametrize(("part", "what"), [(0, "observations"), (1, "rewards"), (3, "flags")])
def test_one_row_is_never_repeated_in_all_of_them(part, what):
    class Shorter(SyncVectorEnv):
        def step(self, actions):
            parts = list(super().step(actions))
            parts[part] = parts[part][:1]
            return tuple(parts)

    makers = [lambda: Clock([(9, "t")])] * 2
    trainer = trainer_of(Split, GymVecEnv(Shorter(makers, autoreset_mode=AutoresetMode.NEXT_STEP)))
    with pytest.raises(EnvError, match=rf"{what}.* of shape \(1,.*expected \(2,"):
        trainer.collect()


def test_observations_are_never_rounded_to_the_kind_of_number_that_reset_returned():
    with pytest.raises(EnvError, match=r"float64.*reset\(\).*int64"):
        trainer_of(lstm, GymVecEnv(Fickle())).collect()


class Broken(Clock):
    broken = "observation"

    def step(self, action):
        observation, reward, *rest = super().step(action)
        if self.time == 4 and self.broken == "observation":
            observation[1] = np.nan
        if self.time == 4 and self.broken == "reward":
            reward = np.inf
        return observation, reward, *rest


class BrokenReward(Broken):
    broken = "reward"


@pytest.mark.parametrize(
    ("env_class", "text"),
    [
        (Broken, r"observation\[0\] = nan at step 4 of env 0, element \[1\]"),
        (BrokenReward, r"reward = inf at step 3 of env 0"),
    ],
)
def test_a_number_that_is_not_finite_is_found_where_it_arose(env_class, text):
    env = GymVecEnv(SyncVectorEnv([lambda: env_class([(9, "t")])]))
    with pytest.raises(TrainingError, match=text):
        trainer_of(Plain, env).collect()


def test_a_policy_that_answers_nan_is_blamed():
    trainer = trainer_of(Plain, clocks(AutoresetMode.NEXT_STEP))
    with torch.no_grad():
        trainer.policy.action_head.weight[0, 0] = torch.nan
    with pytest.raises(TrainingError, match=r"log-probability.*\n.*the policy made it"):
        trainer.collect()


def test_values_of_another_number_than_observations_are_refused():
    class Wide(Plain):
        def forward_eval(self, observations, state=None):
            logits, values = super().forward_eval(observations, state)
            return logits, values.expand(-1, 3)

    with pytest.raises(ContractError, match=r"values of shape \(2, 3\)"):
        trainer_of(Wide, clocks(AutoresetMode.NEXT_STEP)).collect()


def test_a_memory_of_pufferlibs_form_that_nobody_announced_says_how_to():
    env = clocks(AutoresetMode.NEXT_STEP)
    with pytest.raises(ContractError, match="lstm_h") as caught:
        trainer_of(puffer_lstm, env, CONFIG).collect()
    assert "use_rnn" in caught.value.fix


def test_use_rnn_may_not_contradict_the_policy():
    env = clocks(AutoresetMode.NEXT_STEP)
    with pytest.raises(ContractError, match="use_rnn is False"):
        trainer_of(lstm, env, dataclasses.replace(CONFIG, use_rnn=False))
    with pytest.raises(ContractError, match="hidden_size"):
        trainer_of(Plain, env, dataclasses.replace(CONFIG, use_rnn=True))


def test_inputs_that_are_copied_to_a_device_are_those_that_are_written_there(monkeypatch):
    events = []

    class Event:
        def synchronize(self):
            events.append("wait")

        def record(self):
            events.append("copy")

    class HostRow(rollout_module._HostRow):
        def __init__(self, row, device):
            super().__init__(row, device)
            self._event = Event()

    expected = episodes_of(AutoresetMode.SAME_STEP, lstm)
    monkeypatch.setattr(rollout_module, "_is_copied", lambda env_device, device: True)
    monkeypatch.setattr(rollout_module, "_HostRow", HostRow)
    assert episodes_of(AutoresetMode.SAME_STEP, lstm) == expected
    # The first observations, and one row after each step; none is written over while it is copied.
    assert events == ["wait", "copy"] * (1 + 2 * STEPS)
