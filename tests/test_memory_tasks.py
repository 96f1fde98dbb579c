"""Our own envs keep their rules: hand-played episodes, seeds, gymnasium's checker, known values."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from training_toys import legal_actions, one_thread_seed, run

from puffer_policies.assembly.factory import get_policy
from puffer_policies.config.schema import TrainConfig
from puffer_policies.envs.factory import register_envs
from puffer_policies.envs.known_values import Chain, Countdown
from puffer_policies.envs.recall import DECK, MaskedRecall, RepeatFirst, RepeatPrevious
from puffer_policies.errors import EnvError
from puffer_policies.spaces import action_layout, spaces_of
from puffer_policies.spaces.nested import leaves, map_nested
from puffer_policies.train.trainer import Trainer
from puffer_policies.vector.factory import make_vecenv

pytestmark = pytest.mark.trainer

OWN = "puffer_policies"
BLIND = {
    "CartPoleNoVel-v0": ("CartPole-v1", [0, 2]),
    "PendulumNoVel-v0": ("Pendulum-v1", [0, 1]),
    "MountainCarContinuousNoVel-v0": ("MountainCarContinuous-v0", [0]),
}
GAMES = [
    *("RepeatPrevious-v0", "RepeatFirst-v0", "MaskedRecall-v0", "Chain-v0", "Countdown-v0"),
    *("Archery-v0", "NearestFriend-v0", "HiddenTide-v0"),
]


@pytest.fixture(autouse=True)
def registered():
    register_envs()


def rng(seed=0):
    return np.random.default_rng(seed)


def flat(observations):
    """Return a batch of observations as rows of numbers (N, ...)."""
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves(observations)], -1)


def batch_of(observation):
    return map_nested(lambda leaf: np.asarray(leaf)[None], observation)


@pytest.mark.parametrize("name", [*BLIND, *GAMES])
def test_gymnasiums_checker_passes(name):
    env = gymnasium.make(f"{OWN}/{name}").unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # A Box from -inf to inf is CartPole's own choice.
        warnings.filterwarnings("ignore", message=".*(infinity|symmetric and normalized).*")
        check_env(env, skip_render_check=True)


@pytest.mark.parametrize("name", [*BLIND, *GAMES])
def test_one_seed_makes_one_episode(name):
    def play(seed):
        env, draws = make_vecenv(f"{OWN}/{name}", 4), rng(7)
        observations = [flat(env.reset(seed=seed))]
        for _ in range(100):
            actions = legal_actions(env, draws, env.action_masks)
            observations.append(flat(env.step(actions).observations))
        return np.stack(observations)

    np.testing.assert_array_equal(play(3), play(3))
    assert name in ("Chain-v0", "Countdown-v0") or not np.array_equal(play(3), play(4))


@pytest.mark.parametrize("name", GAMES)
def test_a_single_game_is_a_vector_of_one(name):
    single = gymnasium.make(f"{OWN}/{name}")
    vector = gymnasium.make_vec(f"{OWN}/{name}", 1)
    assert vector.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    observation, info = single.reset(seed=5)
    observations, infos = vector.reset(seed=5)
    layout, draws, done = action_layout(single.action_space), rng(1), False
    while not done:
        np.testing.assert_array_equal(flat(batch_of(observation)), flat(observations))
        masks = infos.get("action_mask")
        np.testing.assert_array_equal(info.get("action_mask", 0), 0 if masks is None else masks[0])
        actions = layout.to_env(legal_actions(vector, draws, masks))
        action = map_nested(lambda leaf: leaf[0], actions)
        observation, reward, *ended, info = single.step(action)
        observations, rewards, *all_ended, infos = vector.step(actions)
        assert [reward, *ended] == [rewards[0], *(flags[0] for flags in all_ended)]
        done = any(ended)


@pytest.mark.parametrize(("name", "seen"), BLIND.items())
def test_hidden_velocities_change_nothing_else(name, seen):
    plain_id, shown = seen
    plain, blind = make_vecenv(plain_id, 3), make_vecenv(f"{OWN}/{name}", 3)
    np.testing.assert_array_equal(plain.reset(seed=1)[:, shown], blind.reset(seed=1))
    plain.single_action_space.seed(0)
    for _ in range(300):
        action = np.stack([plain.single_action_space.sample() for _ in range(3)])
        told, hidden = plain.step(action), blind.step(action)
        np.testing.assert_array_equal(told.observations[:, shown], hidden.observations)
        np.testing.assert_array_equal(told.rewards, hidden.rewards)
        np.testing.assert_array_equal(told.done, hidden.done)
    space = spaces_of(f"{OWN}/{name}").observation
    assert space.shape == (len(shown),)
    assert all(space.contains(row) for row in hidden.observations)


def test_cartpole_without_velocities_runs_in_gymnasiums_vector_class():
    env = gymnasium.make_vec(f"{OWN}/CartPoleNoVel-v0", 2)
    assert type(env).__mro__[2].__name__ == "CartPoleVectorEnv"


def test_repeat_previous_pays_the_suit_of_three_cards_before():
    game = RepeatPrevious(1, rng(), k=4)
    game.suits[0] = np.tile([0, 1, 2, 3], 13)
    shown, paid = [], []
    for action in [0, 0, 0, 0, 1, 3]:
        shown.append(int(game.observe()[0]))
        paid.append(float(game.step(np.array([action]))[0]) * (DECK - 4))
    assert shown == [0, 1, 2, 3, 0, 1]
    # Too few cards three times; then the suits asked for are 0, 1 and 2.
    assert paid == [0, 0, 0, 1, 1, -1]


@pytest.mark.parametrize(("k", "steps_paid"), [(1, 51), (4, 48), (10, 42)])
def test_perfect_memory_returns_one_and_its_opposite_minus_one(k, steps_paid):
    game = RepeatPrevious(8, rng(), k=k)
    rows, right, wrong, length = np.arange(8), 0.0, 0.0, 0
    while not game.over.any():
        answer = game.suits[rows, np.maximum(game.position - k + 1, 0)]
        answers = np.where(rows < 4, answer, (answer + 1) % 4)
        rewards = game.step(answers)
        right, wrong, length = right + rewards[:4], wrong + rewards[4:], length + 1
    assert length == DECK - 1
    assert game.over.all()
    np.testing.assert_allclose(right, 1)
    np.testing.assert_allclose(wrong, -1)


def test_repeat_previous_deals_whole_decks_and_guessing_returns_half_below_zero():
    game = RepeatPrevious(500, rng())
    assert (np.sort(game.suits, axis=1) == np.arange(DECK) // 13).all()
    random, total = rng(1), np.zeros(500)
    while not game.over.any():
        total += game.step(random.integers(0, 4, 500))
    assert abs(total.mean() + 0.5) < 0.05


def first_seen_in_the_last(frames):
    """Play the first card while it is among the last frames, and then a guess."""
    game, random, total = RepeatFirst(200, rng()), rng(1), np.zeros(200)
    first = game.observe()
    while not game.over.any():
        guess = random.integers(0, 4, 200)
        total += game.step(np.where(game.position < frames, first, guess))
    assert game.over.all()
    return total


def test_repeat_first_pays_one_for_the_first_card_and_nothing_for_a_stack_of_frames():
    np.testing.assert_allclose(first_seen_in_the_last(DECK), 1)
    assert first_seen_in_the_last(16).mean() == pytest.approx((16 - 35 / 2) / 51, abs=0.03)


def test_masked_recall_shows_the_cue_once_and_pays_it_at_the_question():
    game = MaskedRecall(64, rng(), delay=3)
    cue, shown = game.cue.copy(), []
    for _ in range(4):
        shown.append(game.observe())
        mask = game.infos()["action_mask"]
        assert (mask.sum(axis=1) == 1).all()
        assert (game.step(mask.argmax(axis=1)) == 0).all()
        assert not game.over.any()
    np.testing.assert_array_equal(shown[0], cue)
    assert (np.stack(shown[1:]) == MaskedRecall.BLANK).all()
    assert (game.observe() == MaskedRecall.QUESTION).all()
    mask = game.infos()["action_mask"]
    assert (mask.sum(axis=1) == 2).all()
    assert mask[np.arange(64), cue].all()
    half = np.arange(64) < 32
    other = np.where(mask == 1, np.arange(4) != cue[:, None], False).argmax(axis=1)
    np.testing.assert_array_equal(game.step(np.where(half, cue, other)), half)
    assert game.over.all()


def test_an_illegal_action_ends_masked_recall_without_pay():
    game = MaskedRecall(32, rng())
    mask = game.infos()["action_mask"]
    rewards = game.step(mask.argmin(axis=1))
    assert game.over.all()
    assert not rewards.any()


def test_the_question_alone_does_not_betray_the_cue():
    game = MaskedRecall(20_000, rng(), delay=1)
    for _ in range(2):
        game.step(game.infos()["action_mask"].argmax(axis=1))
    mask = game.infos()["action_mask"]
    pairs = mask @ (1 << np.arange(4))
    for pair in np.unique(pairs):
        rows = pairs == pair
        first = mask[rows][0].argmax()
        assert abs((game.cue[rows] == first).mean() - 0.5) < 0.03


def test_chain_pays_at_its_end_and_is_only_ever_cut():
    env = gymnasium.make_vec(f"{OWN}/Chain-v0", 2)
    env.reset(seed=0)
    rewards, cut = [], []
    for _ in range(32):
        _, reward, terminated, truncated, _ = env.step(np.array([1, 0]))
        assert not terminated.any()
        rewards.append(reward)
        cut.append(truncated.all())
    assert cut == [False] * 31 + [True]
    np.testing.assert_array_equal(np.sum(rewards, axis=0), [32 - (Chain.STATES - 1), 0])


@pytest.mark.parametrize("game", [Chain, Countdown])
def test_the_known_values_are_what_the_game_pays(game):
    gamma, horizon = 0.8, 200
    values = game.values(gamma)
    played = game(1, rng())
    for value_of_seen in range(len(values)):
        seen = int(played.observe()[0])
        later = game(1, rng())
        for _ in range(value_of_seen):
            later.step(np.ones(1, dtype=int))
        paid = 0.0
        for t in range(horizon):
            if later.over[0]:
                break
            paid += gamma**t * float(later.step(np.ones(1, dtype=int))[0])
        assert paid == pytest.approx(values[seen])
        played.step(np.ones(1, dtype=int))


@pytest.mark.parametrize("game", [Chain, Countdown])
def test_a_critic_learns_to_look_past_a_cut_and_not_past_an_end(game):
    gamma, limits = 0.8, {"learning_rate": 1e-2, "minibatch_size": 128, "ent_coef": 0.0}
    one_thread_seed(0)
    env = make_vecenv(f"{OWN}/{game.__name__}-v0", 16)
    policy = get_policy("Default", env, hidden_size=32)
    config = TrainConfig(
        total_timesteps=11_000, gamma=gamma, scale_rewards=False, bptt_horizon=64, **limits
    )
    trainer = Trainer(config, env, policy)
    run(trainer)
    with torch.no_grad():
        _, values = policy.forward_eval(torch.arange(8))
    np.testing.assert_allclose(values[:, 0].numpy(), game.values(gamma), atol=0.2)


@pytest.mark.parametrize(
    ("game", "options"), [(RepeatPrevious, {"k": 0}), (MaskedRecall, {"delay": 0})]
)
def test_options_that_make_no_game_are_errors(game, options):
    with pytest.raises(EnvError, match="is 0"):
        game(1, rng(), **options)


def test_options_come_from_the_env_section():
    env = make_vecenv(f"{OWN}/RepeatPrevious-v0", 2, env_kwargs={"k": 2})
    assert env.env._make_game(1, rng()).k == 2


@pytest.mark.parametrize("actions", [np.zeros(3, int), np.zeros(2), np.array([0, 4])])
def test_wrong_actions_are_errors(actions):
    env = gymnasium.make_vec(f"{OWN}/RepeatPrevious-v0", 2)
    env.reset(seed=0)
    with pytest.raises(EnvError, match=r"RepeatPrevious.*actions"):
        env.step(actions)
