"""The trainer's options, alone and together: exact where they promise it, finite and repeatable."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from plain_policies import Plain, Split
from training_toys import clocks, guesses, run, update, weights

from puffer_policies.assembly.factory import get_policy
from puffer_policies.config.schema import TrainConfig
from puffer_policies.errors import ConfigError
from puffer_policies.runs.snapshot import put_snapshot, take_snapshot, with_envs
from puffer_policies.train import carry
from puffer_policies.train.batch import Transitions
from puffer_policies.train.plan import make_plan
from puffer_policies.train.ppo import LatestPredictions, Minibatch
from puffer_policies.train.returns import Clips, vtrace
from puffer_policies.train.trainer import Trainer
from puffer_policies.vector.gymnasium_envs import GymVecEnv
from puffer_policies.wrappers.memory import LSTMWrapper

# Dynamo hides this warning of its own, unless warnings are errors.
pytestmark = [
    pytest.mark.trainer,
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
]

CONFIG = TrainConfig(
    total_timesteps=128,
    bptt_horizon=8,
    batch_size=64,
    minibatch_size=32,
    update_epochs=2,
    learning_rate=1e-2,
    seed=5,
)
MAKERS = [Plain, lambda env: LSTMWrapper(env, Split(env))]


@pytest.fixture(autouse=True)
def eager_backend(monkeypatch):
    """Trace and differentiate, but spare the seconds of generating code."""
    monkeypatch.setattr(carry, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def trainer_of(env, make, **options):
    config = dataclasses.replace(CONFIG, **options)
    torch.manual_seed(config.seed)
    return Trainer(config, env, make(env))


class Toy(gymnasium.Env[Any, Any]):
    """Random observations, a reward for small ones; some episodes end, some are cut."""

    def __init__(self, observations: spaces.Space[Any], actions: spaces.Space[Any]) -> None:
        # Copied, as a space draws from a generator of its own.
        self.observation_space, self.action_space = copy.deepcopy((observations, actions))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.time = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.time += 1
        over = self.time > 4 and bool(self.np_random.random() < 0.3)
        reward = float(self.np_random.normal())
        return self.observation_space.sample(), reward, over, self.time >= 9, {}

    def get_state(self) -> dict[str, Any]:
        return {"time": self.time, "random": [g.bit_generator.state for g in self._generators()]}

    def set_state(self, state: dict[str, Any]) -> None:
        self.time = state["time"]
        for generator, random in zip(self._generators(), state["random"], strict=True):
            generator.bit_generator.state = random

    def _generators(self) -> list[np.random.Generator]:
        parts = getattr(self.observation_space, "spaces", {"all": self.observation_space})
        return [self.np_random, *(each.np_random for each in parts.values())]


BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)
NESTED = spaces.Dict({"place": BOX, "kind": spaces.Discrete(3)})
# Small policies: Muon multiplies matrices in bfloat16, which is slow on most CPUs.
KINDS = {
    "discrete": (BOX, spaces.Discrete(3), "Default(hidden_size=16)"),
    "continuous": (BOX, spaces.Box(-1.0, 1.0, (2,), np.float32), "Continuous(hidden_size=16)"),
    "nested": (NESTED, spaces.MultiDiscrete([2, 3]), "Structured(hidden_size=16)"),
    "memory": (BOX, spaces.Discrete(3), "LSTMWrapper(Default(hidden_size=16))"),
    "all": (
        NESTED,
        spaces.Box(-1.0, 1.0, (2,), np.float32),
        "LSTMWrapper(Default(hidden_size=16))",
    ),
}

OPTIONS: dict[str, dict[str, Any]] = {
    "muon": {"optimizer": "muon", "lr_schedule": "cosine"},
    "vtrace": {"vtrace_rho_clip": 1.0, "vtrace_c_clip": 0.9},
    "priorities": {"prio_alpha": 0.8},
    "pieces": {"max_minibatch_size": 8},
    "bfloat16": {"precision": "bfloat16"},
}
ALONE = [(name,) for name in OPTIONS]
# Options see rows and segments: spaces and memory matter to all of them in the same places.
CASES = [("memory", names) for names in ALONE] + [(kind, tuple(OPTIONS)) for kind in KINDS]
CASES += [
    pytest.param("all", names, marks=pytest.mark.exhaustive)
    for names in itertools.combinations(OPTIONS, 2)
]


def toys(kind):
    observations, actions, policy = KINDS[kind]
    makers = [lambda: Toy(observations, actions)] * 4
    env = GymVecEnv(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.NEXT_STEP))
    return env, lambda env: get_policy(policy, env)


def options_of(names):
    return {key: value for name in names for key, value in OPTIONS[name].items()}


def trained(kind, **options):
    env, make = toys(kind)
    trainer = trainer_of(env, make, **options)
    logs = run(trainer)
    env.close()
    return weights(trainer), logs


@pytest.mark.parametrize(("kind", "names"), CASES)
def test_any_of_them_together_are_finite_and_one_seed_gives_one_result(kind, names):
    if "muon" in names and not hasattr(torch.optim, "Muon"):
        pytest.skip("needs torch >= 2.9")
    first, logs = trained(kind, **options_of(names))
    second, _ = trained(kind, **options_of(names))
    assert torch.isfinite(first).all()
    assert all(np.isfinite(logs[f"losses/{part}"]) for part in ("policy", "value", "entropy"))
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", ["muon", "vtrace", "priorities", "bfloat16"])
def test_each_makes_a_difference(name):
    plain, _ = trained("memory")
    found, _ = trained("memory", **OPTIONS[name])
    assert not torch.equal(found, plain)


@pytest.mark.parametrize(
    ("kind", "norm_adv"), [*((kind, True) for kind in KINDS), ("memory", False)]
)
def test_pieces_add_up_to_the_gradient_of_the_whole(kind, norm_adv):
    def gradient(largest):
        env, make = toys(kind)
        trainer = trainer_of(
            env, make, norm_adv=norm_adv, minibatch_size=64, max_minibatch_size=largest
        )
        rollout = trainer.collect()
        assert rollout.ghost.any()
        segments = trainer.estimate(rollout).segments
        count = len(segments.starts)
        rows, importance = torch.arange(count).flip(0), torch.linspace(0.5, 2, count)
        parts = trainer.ppo.backward(segments, Minibatch(rows, importance), 0.2)
        return torch.cat([p.grad.flatten() for p in trainer.policy.parameters()]), parts

    whole, whole_parts = gradient(None)
    pieces, pieces_parts = gradient(24)
    assert whole.abs().max() > 1e-3
    torch.testing.assert_close(pieces, whole, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(pieces_parts, whole_parts, atol=1e-6, rtol=1e-5)


def test_a_piece_smaller_than_a_segment_is_refused():
    config = dataclasses.replace(CONFIG, max_minibatch_size=5)
    with pytest.raises(ConfigError, match="max_minibatch_size 5 holds no whole segment of 8"):
        make_plan(config, 4, recurrent=True)
    assert make_plan(config, 4, recurrent=False).segments_per_piece == 5


@pytest.mark.parametrize("make", MAKERS)
def test_no_more_than_a_piece_goes_through_the_policy(make):
    trainer = trainer_of(guesses(), make, max_minibatch_size=8, minibatch_size=32)
    sizes = []
    inner = getattr(trainer.policy, "policy", trainer.policy)
    inner.net.register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0].shape[0]))
    batch = trainer.estimate(trainer.collect())
    sizes.clear()
    trainer.learn(batch)
    assert set(sizes) == {8}


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_an_estimate_for_an_unmoved_policy_changes_nothing(make, mode):
    trainer = trainer_of(clocks(mode), make, vtrace_rho_clip=1.0)
    batch = trainer.estimate(trainer.collect())
    latest = LatestPredictions(batch, trainer.config, Clips())
    with torch.no_grad():
        new = trainer.ppo.predict(batch.segments)[1]
    latest.record(torch.arange(len(batch.segments.starts)), new.log_probs, new.values)
    again, old = latest.reestimate().transitions, batch.segments.transitions
    real = old.weights > 0
    for name in Transitions._fields:
        found, expected = getattr(again, name)[real], getattr(old, name)[real]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4, msg=name)


def test_the_first_epoch_knows_no_revision():
    plain, _ = trained("memory", update_epochs=1)
    revised, _ = trained("memory", update_epochs=1, vtrace_rho_clip=0.5)
    assert torch.equal(plain, revised)


@pytest.mark.parametrize("kind", ["memory", "all"])
def test_a_revision_is_vtrace_of_what_the_policy_said_last(kind):
    env, make = toys(kind)
    trainer = trainer_of(env, make, vtrace_rho_clip=1.1, vtrace_c_clip=0.9, scale_rewards=False)
    rollout = trainer.collect()
    batch = trainer.estimate(rollout)
    segments, shape = batch.segments, batch.segments.starts.shape
    latest = LatestPredictions(batch, trainer.config, Clips(1.1, 0.9))
    with torch.no_grad():
        for each in trainer.policy.parameters():
            each += 0.05 * torch.randn(each.shape)
        new = trainer.ppo.predict(segments)[1]
        latest.record(
            torch.arange(len(segments.starts)), new.log_probs.detach(), new.values.detach()
        )
    found = Transitions(*latest.reestimate().numbers)
    steps, envs = rollout.done.shape

    def by_time(segments):
        """(S*N, L) -> (T, N), one element at a time."""
        length = segments.shape[1]
        out = np.zeros((steps, envs), np.float32)
        for t, n in itertools.product(range(steps), range(envs)):
            out[t, n] = segments[t // length * envs + n, t % length]
        return out

    values = by_time(new.values.reshape(shape))
    ratios = np.exp(by_time(new.log_probs.reshape(shape)) - rollout.log_probs.numpy())
    later = rollout.next_values.copy()
    for t, n in itertools.product(range(steps - 1), range(envs)):
        if not rollout.done[t, n]:
            later[t, n] = values[t + 1, n]
    expected = vtrace(
        rollout.rewards,
        values,
        later,
        ratios=ratios,
        terminated=rollout.terminated,
        done=rollout.done,
        gamma=trainer.config.gamma,
        gae_lambda=trainer.config.gae_lambda,
        clips=Clips(1.1, 0.9),
    )
    np.testing.assert_allclose(by_time(found.advantages), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_time(found.returns), expected + values, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.log_probs, Transitions(*segments.numbers).log_probs)


@pytest.mark.parametrize("kind", KINDS)
def test_under_bfloat16_the_first_ratios_are_one_up_to_its_error(kind):
    env, make = toys(kind)
    trainer = trainer_of(env, make, precision="bfloat16")
    segments = trainer.estimate(trainer.collect()).segments
    with torch.no_grad():
        new = trainer.ppo.predict(segments)[1]
    real = segments.transitions.weights > 0
    shift = (new.log_probs - segments.transitions.log_probs)[real].abs()
    assert shift.max() < 0.05
    assert {each.dtype for each in new if each is not None} == {torch.float32}
    assert {each.dtype for each in segments.states.values()} <= {torch.float32}


@pytest.mark.parametrize("options", [{"precision": "bfloat16"}, {"optimizer": "muon"}])
def test_it_learns_to_name_what_it_sees(options):
    if "optimizer" in options and not hasattr(torch.optim, "Muon"):
        pytest.skip("needs torch >= 2.9")
    size = {
        "total_timesteps": 3_000,
        "learning_rate": 3e-2,
        "bptt_horizon": 16,
        "batch_size": "auto",
        "update_epochs": 4,
        "minibatch_size": "auto",
    }
    logs = run(trainer_of(guesses(8), Plain, **size, **options))
    assert logs["environment/episode_return"] > 3.4


# Of a memory, tests/test_calls.py compares the gradients.
@pytest.mark.parametrize("kind", ["discrete", pytest.param("memory", marks=pytest.mark.exhaustive)])
def test_a_compiled_update_is_the_plain_one_and_is_saved_under_its_names(kind):
    sizes = {"total_timesteps": 64, "update_epochs": 1}
    plain, compiled = (trainer_of(*toys(kind), **sizes, compile=each) for each in (False, True))
    for trainer in (plain, compiled):
        run(trainer)
    torch.testing.assert_close(weights(compiled), weights(plain), atol=1e-5, rtol=1e-4)
    assert list(compiled.policy.state_dict()) == list(plain.policy.state_dict())


@pytest.mark.parametrize("kind", ["memory", pytest.param("all", marks=pytest.mark.exhaustive)])
def test_compiling_goes_with_all_the_others(kind):
    found, _ = trained(kind, compile=True, total_timesteps=64, **options_of(OPTIONS))
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("names", [("priorities",), tuple(OPTIONS)], ids="+".join)
def test_a_resumed_run_equals_the_uninterrupted_one(names):
    makers = [toys("all") for _ in range(3)]
    whole, before, after = (trainer_of(*each, **options_of(names)) for each in makers)
    run(whole)
    update(before)
    snapshot = with_envs(take_snapshot(before), before)
    assert put_snapshot(after, snapshot, path="there", owner=None) == ""
    run(after)
    assert torch.equal(weights(after), weights(whole))
