"""Our own envs on a device: exact dynamics, restarts, chances, and a step that compiles whole."""

from __future__ import annotations

import json
import math
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from device_toys import synchronizations
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv

from puffer_policies import get_policy
from puffer_policies.agent import Agent
from puffer_policies.checks import check_policy
from puffer_policies.config.load import load_config
from puffer_policies.envs.factory import TENSOR_ENVS
from puffer_policies.envs.recall import (
    DECK,
    RANKS,
    SUITS,
    RepeatPrevious,
    RepeatPreviousVectorEnv,
)
from puffer_policies.errors import ConfigError, EnvError
from puffer_policies.runs.evaluate import evaluate_checkpoint, load_trained_policy
from puffer_policies.runs.run import train_from_config
from puffer_policies.runs.snapshot_data import pack, unpack
from puffer_policies.vector.factory import as_vecenv, make_vecenv
from puffer_policies.vector.state import get_state, set_state
from puffer_policies.vector.tensor.adapter import TensorVecEnv
from puffer_policies.vector.tensor.cartpole import TorchCartPole
from puffer_policies.vector.tensor.pendulum import TorchPendulum
from puffer_policies.vector.tensor.repeat_previous import TorchRepeatPrevious

pytestmark = pytest.mark.trainer

MAKERS = {
    "cartpole": partial(TorchCartPole, max_episode_steps=9),
    "pendulum": partial(TorchPendulum, max_episode_steps=9),
    "repeat_previous": TorchRepeatPrevious,
}
EACH = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def actions_of(env, generator):
    if env.single_action_space.shape:
        return torch.randn((env.num_envs, 1), generator=generator) * 2
    return torch.randint(int(env.single_action_space.n), (env.num_envs,), generator=generator)


def play(env, steps, seed=0):
    """Return the answers of some steps, as one tensor (steps, N, ...) each."""
    generator = torch.Generator().manual_seed(seed)
    answers = [env.step(actions_of(env, generator))[:4] for _ in range(steps)]
    return [torch.stack(each) for each in zip(*answers, strict=True)]


def test_cartpole_moves_as_gymnasiums_does():
    num_envs, draws = 4096, np.random.default_rng(0)
    scale = np.array([3.0, 3.0, 0.3, 3.0])
    states = (draws.uniform(-1, 1, (num_envs, 4)) * scale).astype(np.float32)
    theirs, ours = CartPoleVectorEnv(num_envs), TorchCartPole(num_envs)
    theirs.reset(seed=0)
    for actions in np.zeros(num_envs, np.int64), np.ones(num_envs, np.int64):
        theirs.state, theirs.prev_done = states.T.astype(np.float64), np.zeros(num_envs, bool)
        expected, rewards, terminated, *_ = theirs.step(actions)
        game, pay = ours.advance(
            {"state": torch.from_numpy(states)}, torch.from_numpy(actions), torch.rand(num_envs, 4)
        )
        assert np.allclose(game["state"], expected, rtol=1e-6, atol=1e-6)
        over = ours.over(game).numpy()
        # Where rounding decides, either is right.
        limits = np.array([2.4, math.radians(12)])
        close = (np.abs(np.abs(expected[:, [0, 2]]) - limits) < 1e-6).any(axis=1)
        assert 0.2 < terminated.mean() < 0.9
        assert (over == terminated)[~close].all()
        assert (pay.numpy() == rewards).all()


def test_cartpole_keeps_to_gymnasium_over_episodes():
    """Teacher-forced: gymnasium's state is set to ours before each step."""
    theirs, ours = CartPoleVectorEnv(64), TorchCartPole(64, max_episode_steps=40)
    theirs.max_episode_steps = 40
    theirs.reset(seed=0)
    state, _ = ours.reset(seed=0)
    ended = torch.zeros(64, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    for _ in range(120):
        actions = torch.randint(2, (64,), generator=generator)
        theirs.state = state.T.double().numpy().copy()
        expected, *flags = theirs.step(actions.numpy())
        state, *mine, _ = ours.step(actions)
        alive = ~ended.numpy()
        assert np.allclose(state[alive], expected[alive], rtol=1e-6, atol=1e-6)
        for a, b in zip(mine, flags, strict=False):
            assert (a.numpy() == b).all()
        ended = mine[1] | mine[2]


def test_pendulum_moves_as_gymnasiums_does():
    num_envs, draws = 512, np.random.default_rng(0)
    angles = draws.uniform(-12, 12, num_envs).astype(np.float32)
    speeds = draws.uniform(-8, 8, num_envs).astype(np.float32)
    torques = draws.uniform(-3, 3, (num_envs, 1)).astype(np.float32)
    ours = TorchPendulum(num_envs)
    game = {"angle": torch.from_numpy(angles), "speed": torch.from_numpy(speeds)}
    game, rewards = ours.advance(game, torch.from_numpy(torques), torch.rand(num_envs, 2))
    theirs = gymnasium.make("Pendulum-v1").unwrapped
    theirs.reset(seed=0)
    expected = []
    for angle, speed, torque in zip(angles, speeds, torques, strict=True):
        theirs.state = np.array([angle, speed], np.float64)
        observation, reward, *_ = theirs.step(torque)
        expected.append([*observation, reward])
    actual = torch.cat((ours.observe(game), rewards[:, None]), dim=1)
    assert np.allclose(actual, expected, rtol=1e-5, atol=3e-6)
    assert not ours.over(game).any()


@pytest.mark.parametrize("k", [1, 4, 9])
def test_cards_are_judged_as_by_our_own_rules(k):
    ours = TorchRepeatPrevious(32, k)
    first, _ = ours.reset(seed=0)
    generator = torch.Generator().manual_seed(1)
    actions = [torch.randint(SUITS, (32,), generator=generator) for _ in range(DECK - 1)]
    answers = [ours.step(each) for each in actions]
    game = RepeatPrevious(32, np.random.default_rng(0), k)
    game.suits = torch.stack([first, *(each[0] for each in answers)], dim=1).numpy()
    for chosen, (observation, rewards, terminated, truncated, _) in zip(
        actions, answers, strict=True
    ):
        assert np.allclose(game.step(chosen.numpy()), rewards, rtol=1e-6)
        assert (game.observe() == observation.numpy()).all()
        assert (game.over == terminated.numpy()).all()
        assert not truncated.any()
    counts = np.stack([(game.suits == suit).sum(axis=1) for suit in range(SUITS)])
    assert (counts == RANKS).all()


def test_decks_have_the_chances_of_shuffled_ones():
    ours = TorchRepeatPrevious(20_000)
    first, _ = ours.reset(seed=0)
    cards = [first, *(ours.step(torch.zeros_like(first))[0] for _ in range(DECK - 1))]
    for card in (0, 1, 25, DECK - 1):
        shares = torch.bincount(cards[card], minlength=SUITS) / len(first)
        assert torch.allclose(shares, torch.tensor(0.25), atol=0.015)
    for one, other in ((0, 1), (1, 40), (DECK - 2, DECK - 1)):
        same = (cards[one] == cards[other]).float().mean()
        assert same == pytest.approx((RANKS - 1) / (DECK - 1), abs=0.015)


def test_games_start_within_gymnasiums_limits():
    carts, _ = TorchCartPole(5000).reset(seed=0)
    assert carts.abs().max() <= 0.05
    assert torch.allclose(carts.std(dim=0), torch.tensor(0.1 / math.sqrt(12)), rtol=0.05)
    pendulums, _ = TorchPendulum(5000).reset(seed=0)
    angles = torch.atan2(pendulums[:, 1], pendulums[:, 0])
    assert angles.std().item() == pytest.approx(math.pi / math.sqrt(3), rel=0.05)
    assert pendulums[:, 2].abs().max() <= 1.0


def test_limits_of_time_are_those_of_gymnasiums_ids():
    assert TorchCartPole().max_episode_steps == gymnasium.spec("CartPole-v1").max_episode_steps
    assert TorchPendulum().max_episode_steps == gymnasium.spec("Pendulum-v1").max_episode_steps


def test_a_finished_row_ignores_its_next_action_and_starts_anew():
    env = TorchPendulum(3, max_episode_steps=4)
    env.reset(seed=0)
    observations, rewards, terminated, truncated = play(env, 10)
    assert truncated[:, 0].tolist() == [False] * 3 + [True] + [False] * 4 + [True, False]
    assert not terminated.any()
    assert (rewards[[4, 9]] == 0).all()
    assert (rewards[[0, 3, 5, 8]] != 0).all()
    assert (observations[[4, 9], :, 2].abs() <= 1).all()


@EACH
def test_a_seed_repeats_all_and_draws_from_no_global_generator(make):
    one, other = make(6), make(6)
    before = torch.get_rng_state()
    first, _ = one.reset(seed=3)
    torch.rand(2)
    second, _ = other.reset(seed=3)
    assert torch.equal(first, second)
    for a, b in zip(play(one, 80), play(other, 80), strict=True):
        assert torch.equal(a, b)
    torch.set_rng_state(before)
    third, _ = one.reset(seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    fourth, _ = one.reset()
    assert not torch.equal(torch.stack([first, third]), torch.stack([third, fourth]))


@EACH
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_step_compiles_without_a_graph_break(make, backend):
    torch._dynamo.reset()
    plain, compiled = make(6), make(6)
    compiled._transition = torch.compile(compiled.transition, fullgraph=True, backend=backend)
    plain.reset(seed=3)
    compiled.reset(seed=3)
    for a, b in zip(play(plain, 30), play(compiled, 30), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_the_option_compiles_the_step(monkeypatch):
    compile = torch.compile
    arguments = {}

    def recording(function, **kwargs):
        arguments.update(kwargs)
        return compile(function, backend="eager", **kwargs)

    monkeypatch.setattr(torch, "compile", recording)
    env = TorchCartPole(2, compiled=True)
    env.reset(seed=0)
    play(env, 3)
    assert arguments == {"fullgraph": True}


@EACH
def test_no_step_waits_for_the_device(make):
    vecenv = TensorVecEnv(make(6))
    vecenv.reset(seed=0)
    generator = torch.Generator().manual_seed(0)
    vecenv.step(actions_of(vecenv, generator))
    with synchronizations() as waits:
        for _ in range(60):
            vecenv.step(actions_of(vecenv, generator))
    assert not waits


@EACH
def test_another_env_goes_on_exactly_where_one_was(make):
    one, other = TensorVecEnv(make(5)), TensorVecEnv(make(5))
    one.reset(seed=1)
    other.reset(seed=2)
    play(one.env, 12)
    tensors = {}
    tree = json.loads(json.dumps(pack(get_state(one), "envs", tensors)))
    set_state(other, unpack(tree, tensors))
    for a, b in zip(play(one.env, 60, seed=4), play(other.env, 60, seed=4), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: TorchCartPole(0), "0 rows"),
        (lambda: TorchPendulum(1, max_episode_steps=0), "0 steps"),
        (lambda: TorchPendulum(1, max_episode_steps=2.5), "2.5 steps"),
        (lambda: TorchPendulum(1, max_episode_steps="ten"), "ten steps"),
        (lambda: TorchCartPole(1, compiled="maybe"), "compiled is 'maybe'"),
        (lambda: TorchRepeatPrevious(1, 52), "k is 52"),
        (lambda: TorchRepeatPrevious(1, 2.5), "k is 2.5"),
        (lambda: RepeatPreviousVectorEnv(1, k="two"), "k is 'two'"),
        (lambda: TorchCartPole(1).step(torch.zeros(1, dtype=torch.int64)), "before its first"),
        (lambda: TorchCartPole(2).step(torch.zeros(2)), "integer actions of shape (2,)"),
        (lambda: TorchPendulum(2).step(torch.zeros(2)), "float actions of shape (2, 1)"),
    ],
)
def test_a_wrong_call_is_refused_in_words(call, words):
    with pytest.raises(EnvError) as error:
        call()
    assert words in str(error.value)


@pytest.mark.parametrize("name", TENSOR_ENVS)
def test_an_id_makes_one_on_the_device(name):
    vecenv = make_vecenv(f"puffer_policies/{name}", 3, device=torch.device("cpu"))
    assert isinstance(vecenv, TensorVecEnv)
    assert vecenv.device == torch.device("cpu")
    assert len(vecenv.reset(seed=0)) == 3
    with pytest.raises(ConfigError, match="no single env"):
        make_vecenv(f"puffer_policies/{name}", 3, vectorization="sync")


def test_an_env_serves_as_such_for_policies_checks_and_agents():
    env = TorchCartPole(4)
    policy = get_policy("LSTMWrapper(Default)", env)
    observations, _ = env.reset(seed=0)
    assert Agent(policy).act(observations).shape == (4,)
    assert check_policy("Default", env, select=["S1", "B1"], isolate=False).ok
    assert isinstance(as_vecenv(env), TensorVecEnv)


def test_a_run_is_trained_and_evaluated_by_the_name_of_a_config(tmp_path):
    sizes = ["--train.total-timesteps", "2048", "--vec.num-envs", "8", "--eval.episodes", "3"]
    auto = ["--train.batch-size", "auto", "--train.minibatch-size", "auto"]
    flags = [*sizes, *auto, "--train.bptt-horizon", "32", "--train.data-dir", str(tmp_path)]
    result = train_from_config(load_config("torch_repeat_previous", flags))
    assert evaluate_checkpoint(result.folder).returns == result.evaluation.returns
    spaces = load_trained_policy(result.folder).spaces
    assert spaces.observation == TorchRepeatPrevious.single_observation_space
