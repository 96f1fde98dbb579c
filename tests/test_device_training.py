"""Training in envs on a device: the numbers of envs on the host, and no wait in any step."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from device_toys import ALWAYS, KNOWN, NEVER, OnDevice, synchronizations
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from masked_toys import LampsInInfo, LampsInObservation, lamps
from test_hybrid_training import Workshop
from test_options import BOX, NESTED, Toy
from training_toys import MODES, clocks, one_thread_seed, run, update, weights

from puffer_policies import get_policy
from puffer_policies.config.schema import TrainConfig
from puffer_policies.errors import ConfigError, EnvError, TrainingError
from puffer_policies.runs.snapshot import put_snapshot, take_snapshot, with_envs
from puffer_policies.spaces.nested import leaves, map_nested
from puffer_policies.train.carry import Carry
from puffer_policies.train.episodes import EpisodeTracker
from puffer_policies.train.feed import Feed
from puffer_policies.train.rollout import Collector
from puffer_policies.train.trainer import Trainer, _common_device
from puffer_policies.vector.gymnasium_envs import GymVecEnv
from puffer_policies.vector.protocol import Step
from puffer_policies.wrappers import action_mask

pytestmark = pytest.mark.trainer

CONFIG = TrainConfig(
    total_timesteps=192,
    bptt_horizon=8,
    batch_size=64,
    minibatch_size=32,
    update_epochs=2,
    learning_rate=1e-2,
    seed=5,
)
LSTM = "LSTMWrapper(Default(hidden_size=16))"


def toys(
    observations: Any = BOX, actions: Any = None, mode: AutoresetMode = AutoresetMode.NEXT_STEP
) -> GymVecEnv:
    actions = spaces.Discrete(3) if actions is None else actions
    return GymVecEnv(SyncVectorEnv([lambda: Toy(observations, actions)] * 4, autoreset_mode=mode))


def workshops() -> GymVecEnv:
    makers = [lambda: Workshop("flat")] * 4
    return GymVecEnv(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.NEXT_STEP))


REALS = spaces.Box(-1.0, 1.0, (2,), np.float32)
EVERYTHING = "LSTMWrapper(ActionMaskWrapper(PrevActionRewardWrapper(Default(hidden_size=16))))"
RUNS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    **{f"memory, {mode.name}": (lambda mode=mode: toys(mode=mode), LSTM, {}) for mode in MODES},
    "masks": (lambda: lamps(LampsInInfo, num_envs=4), EVERYTHING, {}),
    "masks in observations": (
        lambda: lamps(LampsInObservation, num_envs=4, mode=AutoresetMode.SAME_STEP, cut=True),
        "ActionMaskWrapper(Structured(hidden_size=16))",
        {},
    ),
    "last action, final": (
        lambda: toys(mode=AutoresetMode.SAME_STEP),
        "LSTMWrapper(PrevActionRewardWrapper(Default(hidden_size=16)))",
        {},
    ),
    "raw rewards": (toys, LSTM, {"scale_rewards": False}),
    "normalizer": (
        lambda: toys(NESTED, REALS),
        "NormalizeObservationWrapper(Default(hidden_size=16))",
        {"normalize_observations": True},
    ),
    "priorities": (toys, LSTM, {"prio_alpha": 0.8}),
    "V-trace": (
        lambda: toys(NESTED, spaces.MultiDiscrete([2, 3]), AutoresetMode.SAME_STEP),
        LSTM,
        {"vtrace_rho_clip": 1.0, "vtrace_c_clip": 0.9},
    ),
    "hybrid": (workshops, EVERYTHING.replace("Default", "MultiInput"), {}),
    "value head": (toys, "PopArtWrapper(Default(hidden_size=16))", {}),
}


def trainer_of(env: Any, stack: str, **options: Any) -> Trainer:
    config = dataclasses.replace(CONFIG, **options)
    one_thread_seed(config.seed)
    return Trainer(config, env, get_policy(stack, env))


def numbers_of(trainer: Trainer) -> tuple[dict[str, Any], dict[str, float]]:
    """Make an update, and return every array of it as a copy, and its measurements."""
    rollout = trainer.collect()
    batch = trainer.estimate(rollout)
    arrays: dict[str, Any] = {
        field.name: getattr(rollout, field.name) for field in dataclasses.fields(rollout)
    }
    states = dict(enumerate(arrays.pop("states")))
    arrays |= {"advantages": batch.advantages, "returns": batch.returns, "states": states}
    arrays |= {"numbers": batch.segments.numbers, "scaled": batch.rewards}
    # A value that nothing reads: a device is not asked whether it has to be computed.
    arrays["next_values"] = rollout.next_values * ~rollout.terminated
    copies = map_nested(lambda leaf: np.asarray(leaf).copy(), arrays)
    logs = trainer.learn(batch)
    return {**copies, "weights": weights(trainer).numpy().copy()}, logs


RESTARTING = [
    "memory, SAME_STEP",
    "memory, DISABLED",
    "masks in observations",
    "last action, final",
]


@pytest.mark.parametrize(
    ("name", "final"), [(name, KNOWN) for name in RUNS] + [(name, ALWAYS) for name in RESTARTING]
)
def test_a_run_on_a_device_is_the_run_on_the_host(name: str, final: str) -> None:
    make, stack, options = RUNS[name]
    host = trainer_of(make(), stack, **options)
    device = trainer_of(OnDevice(make(), final=final), stack, **options)
    while not host.finished:
        (arrays, logs), (others, logs_of_other) = numbers_of(host), numbers_of(device)
        for key, array in arrays.items():
            for one, other in zip(leaves(array), leaves(others[key]), strict=True):
                np.testing.assert_array_equal(one, other, err_msg=key)
                assert one.dtype == other.dtype
        logs, logs_of_other = (
            {k: v for k, v in each.items() if k != "SPS" and not k.startswith("time/")}
            for each in (logs, logs_of_other)
        )
        # Sums of float32, which the libraries add in another order; rewards of float64, which are
        # float32 on a device.
        assert logs_of_other == pytest.approx(logs, rel=1e-5, abs=1e-5)
        assert logs["losses/total"] == logs_of_other["losses/total"]
        assert device.reward_scale.factor == host.reward_scale.factor
    assert device.collector.episodes.num_finished == host.collector.episodes.num_finished > 5


def test_what_a_step_finishes_is_the_same_for_a_rollout_at_once() -> None:
    rng, rows = np.random.default_rng(0), 5
    by_step, at_once = EpisodeTracker(rows), EpisodeTracker(rows, device=torch.device("cpu"))
    for num_steps in (7, 1, 12):
        rewards = rng.normal(size=(num_steps, rows)).astype(np.float32)
        done, ghost = rng.random((2, num_steps, rows)) < 0.2
        for t in range(num_steps):
            by_step.update(Step(None, rewards[t], done[t], done[t], ghost[t], ghost[t]))
        arrays = {"done": torch.from_numpy(done), "ghost": torch.from_numpy(ghost)}
        at_once.update_rollout(torch.from_numpy(rewards), **arrays)
        state, other = by_step.state_dict(), at_once.state_dict()
        assert {k: np.asarray(v).tolist() for k, v in state.items()} == {
            k: np.asarray(v).tolist() for k, v in other.items()
        }
    at_once.restart()
    assert not at_once.state_dict()["running_lengths"].any()


def test_where_no_final_observation_is_shown_the_value_before_the_step_stands_in() -> None:
    trainer = trainer_of(OnDevice(clocks(AutoresetMode.SAME_STEP), final=NEVER), LSTM)
    rollout = trainer.collect()
    truncated = rollout.done & ~rollout.terminated
    assert truncated.sum() > 3
    assert torch.equal(rollout.next_values[truncated], rollout.values[truncated])
    inside = ~rollout.done[:-1]
    assert torch.equal(rollout.next_values[:-1][inside], rollout.values[1:][inside])


# Waits --------------------------------------------------------------------------------------

WITHOUT_WAITS = {
    "plain": (toys, "Default(hidden_size=16)"),
    "memory": (toys, LSTM),
    "final": (lambda: toys(mode=AutoresetMode.SAME_STEP), LSTM),
    "masks": (
        lambda: lamps(LampsInInfo, num_envs=4),
        "ActionMaskWrapper(LSTMWrapper(Default(hidden_size=16)))",
    ),
    "last action": (
        toys,
        "NormalizeObservationWrapper(LSTMWrapper(PrevActionRewardWrapper(Default(hidden_size=16))))",
    ),
    "reals": (lambda: toys(BOX, REALS), "Continuous(hidden_size=16)"),
    "hybrid": (workshops, EVERYTHING.replace("Default", "MultiInput")),
}


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the one check of numbers that policies make on the CPU alone."""
    monkeypatch.setattr(action_mask, "_require_options", lambda *_: None)


def waits(name: str, length: int, *, part: str) -> Counter[str]:
    """Return the waits of a rollout of `length` steps, or of a whole update by it."""
    make, stack = WITHOUT_WAITS[name]
    sizes = {"bptt_horizon": length, "batch_size": 4 * length, "minibatch_size": 2 * length}
    trainer = trainer_of(
        OnDevice(make(), final=ALWAYS), stack, **sizes, total_timesteps=12 * length
    )
    update(trainer)
    with synchronizations() as counts:
        if part == "rollout":
            trainer.collector.collect()
        else:
            update(trainer)
    return counts


@pytest.mark.parametrize("name", WITHOUT_WAITS)
@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_rollout_waits_for_the_device_once_however_long_it_is(name: str) -> None:
    counts = waits(name, 16, part="rollout")
    assert counts == waits(name, 32, part="rollout")
    # The finished episodes, whose number is not known before, and what they returned. A factor of
    # a sum over time is made on the host and stays there.
    assert counts == {"index": 1, "tolist": 1, "lift_fresh": 1}


@pytest.mark.parametrize("name", WITHOUT_WAITS)
@pytest.mark.usefixtures("as_on_a_gpu")
def test_an_update_waits_as_often_whatever_the_length_of_its_rollout(name: str) -> None:
    assert waits(name, 16, part="update") == waits(name, 32, part="update")


def test_the_counter_sees_each_kind_of_wait() -> None:
    flags, numbers = torch.tensor([True, False]), torch.ones(2)
    reads = {
        "item": lambda: numbers[0].item(),
        "__bool__": lambda: bool(flags.any()),
        "__float__": lambda: float(numbers.sum()),
        "index": lambda: numbers[flags],
        "nonzero": lambda: torch.nonzero(flags),
        "masked_select": lambda: torch.masked_select(numbers, flags),
        "numpy": lambda: numbers.numpy(),
        "__array__": lambda: np.asarray(numbers),
        "tolist": lambda: numbers.tolist(),
        "cpu": lambda: numbers.cpu(),
        "lift_fresh": lambda: torch.tensor([1.0]),
        "from_numpy": lambda: torch.from_numpy(np.ones(1)),
        "index_put_": lambda: numbers.clone().__setitem__(flags, numbers[:1]),
    }
    for name, read in reads.items():
        with synchronizations() as counts:
            numbers + 1, numbers[0], numbers.to(torch.float64), torch.where(flags, numbers, 0.0)
        assert not counts
        with synchronizations() as counts:
            read()
        assert counts[name], name


# On a device that holds no numbers -----------------------------------------------------------


class Nowhere(OnDevice):
    """The same on torch's device without numbers, where reading any is an error."""

    def __init__(self, vecenv: Any, *, final: str = KNOWN) -> None:
        super().__init__(vecenv, final=final)
        self.device = torch.device("meta")

    @property
    def action_masks(self) -> torch.Tensor | None:
        masks = super().action_masks
        return None if masks is None else masks.to("meta")

    def reset(self, *, seed: int | None = None) -> Any:
        self.observations = super().reset(seed=seed)
        return map_nested(lambda leaf: leaf.to("meta"), self.observations)

    def step(self, actions: torch.Tensor) -> Step:
        assert actions.device.type == "meta"
        rewards = torch.zeros(self.num_envs, device="meta")
        flags = [torch.zeros(self.num_envs, dtype=torch.bool, device="meta") for _ in range(4)]
        observations = map_nested(lambda leaf: leaf.to("meta"), self.observations)
        return Step(observations, rewards, *flags, observations)


@pytest.mark.parametrize("name", WITHOUT_WAITS)
def test_a_step_works_where_no_number_can_be_read(name: str) -> None:
    make, stack = WITHOUT_WAITS[name]
    env = Nowhere(make())
    policy = get_policy(stack, env).to("meta")
    carry = Carry(policy, env.num_agents, device=env.device, use_rnn=None)
    collector = Collector(
        env,
        carry,
        Feed(env, policy),
        num_steps=8,
        segment=4,
        device=env.device,
        generator=None,  # type: ignore[arg-type] # torch has none there
        seed=0,
    )
    collector.episodes.update_rollout = lambda *args, **kwargs: None  # type: ignore[method-assign]
    with torch.no_grad():
        rollout = collector.collect()
    assert rollout.next_values.device == rollout.rewards.device == env.device
    assert rollout.actions.shape[:2] == rollout.done.shape == (8, 4)


# Resuming, and what is refused --------------------------------------------------------------


@pytest.mark.parametrize("name", ["memory, SAME_STEP", "masks", "last action, final", "normalizer"])
def test_a_resumed_run_equals_the_uninterrupted_one(name: str) -> None:
    make, stack, options = RUNS[name]
    envs = [OnDevice(make()) for _ in range(3)]
    whole, before, after = (trainer_of(each, stack, **options) for each in envs)
    logs = run(whole)
    update(before)
    snapshot = with_envs(take_snapshot(before), before)
    assert put_snapshot(after, snapshot, path="there", owner=None) == ""
    resumed = run(after)
    assert torch.equal(weights(after), weights(whole))
    for key in ("environment/episode_return", "environment/episodes", "losses/total"):
        assert resumed[key] == logs[key]


def test_envs_that_can_not_go_on_start_new_episodes_on_the_device() -> None:
    trainer = trainer_of(OnDevice(toys()), LSTM)
    update(trainer)
    trainer.restart_episodes()
    assert not trainer.reward_scale.running_returns.any()
    rollout = trainer.collect()
    assert rollout.starts[0].all()


def test_a_policy_elsewhere_is_refused_before_any_step() -> None:
    env = OnDevice(toys())
    env.device = torch.device("meta")
    with pytest.raises(ConfigError, match=r"tensors on 'meta'.*policy is on 'cpu'") as caught:
        trainer_of(env, LSTM)
    assert "train.device to 'meta'" in caught.value.fix


def test_a_policy_without_parameters_is_where_the_envs_are() -> None:
    env = OnDevice(toys())
    env.device = torch.device("meta")
    assert _common_device(torch.nn.Identity(), env) == torch.device("meta")


def test_observations_are_never_rounded_to_the_kind_of_number_that_reset_returned() -> None:
    class Fickle(OnDevice):
        def reset(self, *, seed: int | None = None) -> Any:
            return super().reset(seed=seed).long()

    trainer = trainer_of(Fickle(toys()), "Default(hidden_size=16)")
    with pytest.raises(EnvError, match=r"torch.float32.*reset\(\).*torch.int64"):
        trainer.collect()


def test_a_number_that_is_not_finite_is_named() -> None:
    class Broken(OnDevice):
        def step(self, actions: torch.Tensor) -> Step:
            step = super().step(actions)
            return dataclasses.replace(step, rewards=step.rewards / 0)

    with pytest.raises(TrainingError, match="reward = "):
        trainer_of(Broken(toys()), LSTM).collect()
