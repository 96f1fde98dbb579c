"""Tasks that need one part of a policy: hand-written play solves them, and not without the part."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from puffer_policies.envs.archery import ARROWS, DRAWS, SHOTS, Archery
from puffer_policies.envs.factory import register_envs
from puffer_policies.envs.friends import FEWEST, MOST, STEPS, NearestFriend
from puffer_policies.envs.tide import CUES, HiddenTide
from puffer_policies.errors import EnvError

pytestmark = pytest.mark.trainer

NUM_GAMES = 400


def rng(seed=0):
    return np.random.default_rng(seed)


def mean_return(game, play):
    """Return the mean over whole games of `play`, which makes actions of the game."""
    total, alive = np.zeros(game.num_games), np.ones(game.num_games, dtype=bool)
    while alive.any():
        rewards = game.step(play(game))
        total += np.where(alive, rewards, 0)
        alive &= ~game.over
    return total.mean()


# -- archery: the parts of an action ---------------------------------------------------------------


def shoot(game):
    """Play by what a policy can see: observations, and the arrows of the mask."""
    observations, mask = game.observe(), game.infos()["action_mask"]
    kind = observations[:, 2 + DRAWS :].argmax(axis=1)
    ranking = (kind[:, None] + np.arange(ARROWS)) % ARROWS
    first = np.take_along_axis(mask[:, :ARROWS], ranking, axis=1).argmax(axis=1)
    return {
        "aim": observations[:, :2],
        "arrow": ranking[np.arange(len(kind)), first],
        "draw": observations[:, 2 : 2 + DRAWS].argmax(axis=1),
    }


def test_archery_pays_one_for_the_right_aim_arrow_and_draw():
    assert mean_return(Archery(NUM_GAMES, rng()), shoot) == pytest.approx(1)


@pytest.mark.parametrize(("part", "chance"), [("aim", 0.22), ("arrow", 0.5), ("draw", 1 / 3)])
def test_without_one_part_archery_pays_what_chance_pays(part, chance):
    game = Archery(NUM_GAMES, rng(), random_part=part)
    assert mean_return(game, shoot) == pytest.approx(chance, abs=0.03)


def test_without_the_mask_archery_ends_by_an_arrow_that_is_not_there():
    def shoot_blindly(game):
        kind = game.observe()[:, 2 + DRAWS :].argmax(axis=1)
        return {**shoot(game), "arrow": kind}

    # The best arrow of all four is in the quiver in half of the steps.
    chance = sum(0.5**shot for shot in range(1, SHOTS + 1)) / SHOTS
    assert mean_return(Archery(NUM_GAMES, rng()), shoot_blindly) == pytest.approx(chance, abs=0.03)


def test_a_part_that_archery_does_not_have_is_named():
    with pytest.raises(EnvError, match="random_part is 'arow'") as error:
        Archery(1, rng(), random_part="arow")
    assert "'arrow'" in str(error.value)


RIGHT = {"aim": np.zeros((2, 2)), "arrow": np.zeros(2, int), "draw": np.zeros(2, int)}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"aim": np.zeros(2)}, r"float actions 'aim' of shape \(2, 2\)"),
        ({"aim": np.full((2, 2), np.nan)}, "actions 'aim' are"),
        ({"draw": np.array([0, 3])}, "actions 'draw' are 0 to 2"),
        ({"draw": np.zeros(2)}, "integer actions 'draw'"),
        ({"bow": np.zeros(2)}, "a dict of 'aim', 'arrow', 'draw'"),
    ],
)
def test_wrong_parts_of_an_action_are_errors(wrong, message):
    register_envs()
    env = gymnasium.make_vec("puffer_policies/Archery-v0", 2)
    env.reset(seed=0)
    with pytest.raises(EnvError, match=message):
        env.step({**RIGHT, **wrong})


# -- nearest friend: a set of entities -------------------------------------------------------------


def name_quarter(game):
    """Play by the entities, whatever row they stand in."""
    observations = game.observe()
    entities, mask = observations["entities"], observations["mask"]
    friends = (mask == 1) & (entities[..., 2] == 1)
    distances = np.where(friends, np.hypot(entities[..., 0], entities[..., 1]), np.inf)
    x, y = entities[np.arange(len(mask)), distances.argmin(axis=1), :2].T
    return (np.arctan2(y, x) // (np.pi / 2)).astype(int) % 4


def test_nearest_friend_pays_one_for_the_right_quarters_and_a_quarter_for_guesses():
    assert mean_return(NearestFriend(NUM_GAMES, rng()), name_quarter) == pytest.approx(1)
    random = rng(1)
    guesses = mean_return(
        NearestFriend(NUM_GAMES, rng()), lambda _: random.integers(0, 4, NUM_GAMES)
    )
    assert guesses == pytest.approx(0.25, abs=0.02)


def test_who_reads_one_row_of_the_set_only_guesses():
    def name_quarter_of_first_row(game):
        x, y = game.observe()["entities"][:, 0, :2].T
        return (np.arctan2(y, x) // (np.pi / 2)).astype(int) % 4

    assert mean_return(NearestFriend(NUM_GAMES, rng()), name_quarter_of_first_row) < 0.4


def test_the_entities_are_new_in_each_step_and_stand_in_any_rows():
    game, counts = NearestFriend(NUM_GAMES, rng()), []
    for _ in range(STEPS):
        before = game.observe()
        assert NearestFriend.observation_space["mask"].contains(before["mask"][0])
        absent = before["mask"] == 0
        assert not before["entities"][absent].any()
        assert set(np.unique(before["entities"][~absent][:, 2])) == {-1, 1}
        assert (before["entities"][..., 2] == 1).any(axis=1).all()
        counts.append(before["mask"].sum(axis=1))
        game.step(np.zeros(NUM_GAMES, int))
    assert set(np.unique(counts)) == set(range(FEWEST, MOST + 1))
    share = (~absent).mean(axis=0)
    np.testing.assert_allclose(share, (FEWEST + MOST) / 2 / MOST, atol=0.1)


# -- hidden tide: what only a critic may see -------------------------------------------------------


def name_cue(game):
    return game.observe()["observation"].argmax(axis=1)


def test_hidden_tide_pays_one_for_the_right_cues_whatever_the_tide():
    game = HiddenTide(NUM_GAMES, rng())
    assert mean_return(game, name_cue) == pytest.approx(1)
    random = rng(1)
    guesses = mean_return(
        HiddenTide(NUM_GAMES, rng()), lambda _: random.integers(0, CUES, NUM_GAMES)
    )
    assert guesses == pytest.approx(1 / CUES, abs=0.02)


def test_the_privileged_number_explains_all_of_a_reward_but_the_answer():
    game, right = HiddenTide(NUM_GAMES, rng(), tide=5.0), np.arange(NUM_GAMES) % 2 == 0
    rewards = np.zeros(NUM_GAMES)
    while not game.over.any():
        ahead = game.observe()["privileged"][:, 0]
        paid = game.step(np.where(right, name_cue(game), (name_cue(game) + 1) % CUES))
        tide = ahead - game.observe()["privileged"][:, 0]
        np.testing.assert_allclose(paid, (right + 5.0 * tide) / 16, atol=1e-5)
        rewards += paid
    np.testing.assert_allclose(rewards, right, atol=1e-9)


def test_a_tide_that_is_not_shown_flows_all_the_same():
    shown, hidden = (HiddenTide(8, rng(), shows_tide=each) for each in (True, False))
    shown.step(name_cue(shown))
    rewards = hidden.step(name_cue(hidden))
    assert not hidden.observe()["privileged"].any()
    assert np.abs(rewards).max() > 1
    np.testing.assert_array_equal(shown.tides, hidden.tides)


@pytest.mark.parametrize("tide", [-1.0, np.inf, np.nan])
def test_a_tide_without_a_size_is_an_error(tide):
    with pytest.raises(EnvError, match="tide is"):
        HiddenTide(1, rng(), tide=tide)
