"""Breakout on feature vectors: the rules of N games at once, and the gymnasium envs around them.

An episode ends when the lives are out or all bricks are gone, and is truncated at a time limit. A
brick is worth 1, so 50 is the best return. Random play earns less than 1; following the ball, 48.

The field is the unit square with y upwards. The ball has constant speed, and where it meets the
paddle decides its angle. The rules are our own, after Atari's arcade game of 1976.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from puffer_policies.envs.autoreset import AutoresetMode
from puffer_policies.envs.games import Game, GameEnv, GameVectorEnv

ROWS, COLUMNS = 5, 10
NUM_FEATURES = 6 + ROWS * COLUMNS
LIVES = 3
MAX_EPISODE_STEPS = 2000

BRICKS_LOW, BRICKS_HIGH = 0.65, 0.9
PADDLE_Y, PADDLE_HALF_WIDTH = 0.05, 0.08
BALL_RADIUS = 0.01
LAUNCH_Y = 0.6
# In one step the ball must not jump over a brick (0.05 high); the paddle must be the faster one.
BALL_SPEED, PADDLE_SPEED = 0.04, 0.05
STEEPEST = np.pi / 3
"""Largest angle between the ball's path and the vertical after it left the paddle."""

Array = NDArray[Any]

_DIRECTION = np.array([0.0, -1.0, 1.0])
_PIXELS = 160
_COLORS = np.array(
    [[200, 72, 72], [198, 108, 58], [180, 122, 48], [162, 162, 42], [72, 160, 72]], dtype=np.uint8
)
_WHITE = 230


class Field(Game):
    """The rules of N games. Actions: 0 stay, 1 left, 2 right."""

    observation_space = spaces.Box(-1.0, 1.0, (NUM_FEATURES,), np.float32)
    action_space = spaces.Discrete(3)
    state_arrays = ("paddle", "ball", "velocity", "lives", "bricks")

    def __init__(self, num_games: int, random: np.random.Generator) -> None:
        super().__init__(num_games, random)
        self.paddle = np.empty(num_games)
        self.ball = np.empty((2, num_games))  # x, y
        self.velocity = np.empty((2, num_games))  # a unit vector
        self.lives = np.empty(num_games, dtype=np.int64)
        self.bricks = np.empty((num_games, ROWS * COLUMNS), dtype=bool)
        self.restart(np.arange(num_games))

    @property
    def over(self) -> Array:
        """(N,) bool: the lives are out or the bricks are gone."""
        return (self.lives <= 0) | ~self.bricks.any(axis=1)

    def restart(self, rows: Array) -> None:
        """Begin a new game in the rows with these indices."""
        self.paddle[rows] = 0.5
        self.lives[rows] = LIVES
        self.bricks[rows] = True
        self._launch(rows)

    def step(self, actions: Array) -> Array:
        """Move paddles and balls; return the rewards (N,): 1 for a brick."""
        moved = self.paddle + PADDLE_SPEED * _DIRECTION[actions]
        np.clip(moved, PADDLE_HALF_WIDTH, 1 - PADDLE_HALF_WIDTH, out=self.paddle)
        before = self.ball
        self.ball = before + BALL_SPEED * self.velocity
        self._bounce_off_walls()
        rewards = self._hit_bricks(before)
        self._meet_paddle(before)
        return rewards

    def observe(self) -> NDArray[np.float32]:
        """Return (N, 56) float32: paddle x, ball x, y, velocity x, y, lives; then bricks, row-wise.

        Positions and velocity are scaled to [-1, 1], lives to [0, 1]; a brick is 1 while it stands.
        """
        features = np.empty((len(self.paddle), NUM_FEATURES), dtype=np.float32)
        features[:, 0] = 2 * self.paddle - 1
        features[:, 1:3] = 2 * self.ball.T - 1
        features[:, 3:5] = self.velocity.T
        features[:, 5] = self.lives / LIVES
        features[:, 6:] = self.bricks
        return features

    def picture(self, row: int) -> NDArray[np.uint8]:
        """Return a picture (160, 160, 3) uint8 of one game."""
        image = np.zeros((_PIXELS, _PIXELS, 3), dtype=np.uint8)
        height = (BRICKS_HIGH - BRICKS_LOW) / ROWS
        for brick in np.flatnonzero(self.bricks[row]):
            line, column = divmod(int(brick), COLUMNS)
            low = BRICKS_LOW + line * height
            _fill(image, column / COLUMNS, (column + 1) / COLUMNS, low, low + height)[
                1:-1, 1:-1
            ] = _COLORS[line]
        paddle, (x, y) = self.paddle[row], self.ball[:, row]
        left, right = paddle - PADDLE_HALF_WIDTH, paddle + PADDLE_HALF_WIDTH
        _fill(image, left, right, PADDLE_Y - 0.02, PADDLE_Y)[:] = _WHITE
        radius = BALL_RADIUS
        _fill(image, x - radius, x + radius, y - radius, y + radius)[:] = _WHITE
        return image

    def _launch(self, rows: Array) -> None:
        """Drop the ball from below the bricks at a random place and angle."""
        # Upwards, a miss would pay as soon as a catch: the new ball would break a brick by itself.
        angle = self.random.uniform(-STEEPEST, STEEPEST, size=len(rows))
        self.ball[0, rows] = self.random.uniform(0, 1, size=len(rows))
        self.ball[1, rows] = LAUNCH_Y
        self.velocity[0, rows] = np.sin(angle)
        self.velocity[1, rows] = -np.cos(angle)

    def _bounce_off_walls(self) -> None:
        x, y = self.ball
        left, right, top = x < 0, x > 1, y > 1
        self.velocity[0][left | right] *= -1
        self.velocity[1][top] *= -1
        x[left] *= -1
        x[right] = 2 - x[right]
        y[top] = 2 - y[top]

    def _hit_bricks(self, before: Array) -> Array:
        """Break the brick that the ball came into, and send the ball back from where it was."""
        rewards = np.zeros(len(self.paddle))
        inside = np.flatnonzero((self.ball[1] >= BRICKS_LOW) & (self.ball[1] < BRICKS_HIGH))
        line, column = _cells(self.ball[:, inside])
        hit = self.bricks[inside, line * COLUMNS + column]
        rows, line, column = inside[hit], line[hit], column[hit]
        self.bricks[rows, line * COLUMNS + column] = False
        rewards[rows] = 1.0
        # From the side only if the ball was in the same line of bricks already.
        from_side = _cells(before[:, rows], clipped=False)[0] == line
        self.velocity[1, rows[~from_side]] *= -1
        self.velocity[0, rows[from_side]] *= -1
        self.ball[:, rows] = before[:, rows]
        return rewards

    def _meet_paddle(self, before: Array) -> None:
        """Return the balls that come down on the paddle; take a life for the others."""
        below = np.flatnonzero((self.ball[1] <= PADDLE_Y) & (before[1] > PADDLE_Y))
        offset = (self.ball[0, below] - self.paddle[below]) / (PADDLE_HALF_WIDTH + BALL_RADIUS)
        caught = np.abs(offset) <= 1
        rows, angle = below[caught], offset[caught] * STEEPEST
        self.velocity[0, rows] = np.sin(angle)
        self.velocity[1, rows] = np.cos(angle)
        self.ball[1, rows] = 2 * PADDLE_Y - self.ball[1, rows]
        missed = below[~caught]
        self.lives[missed] -= 1
        self._launch(missed[self.lives[missed] > 0])


class BreakoutVectorEnv(GameVectorEnv):
    """N games. Observations are (N, 56) float32, actions 0 stay, 1 left, 2 right."""

    metadata: dict[str, Any] = {  # noqa: RUF012 - so does gymnasium declare it
        "render_modes": ["rgb_array"],
        "render_fps": 30,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int = MAX_EPISODE_STEPS,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(
            Field, num_envs, max_episode_steps=max_episode_steps, render_mode=render_mode
        )


class BreakoutEnv(GameEnv):
    """One game. It has no time limit of its own: `gymnasium.make` adds the registered one."""

    metadata: dict[str, Any] = {  # noqa: RUF012 - so does gymnasium declare it
        "render_modes": ["rgb_array"],
        "render_fps": 30,
    }

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(Field, render_mode=render_mode)


def _cells(positions: Array, *, clipped: bool = True) -> tuple[Array, Array]:
    """Return line and column of positions (2, N) in the wall of bricks."""
    line = np.floor((positions[1] - BRICKS_LOW) * (ROWS / (BRICKS_HIGH - BRICKS_LOW)))
    column = np.floor(positions[0] * COLUMNS)
    if clipped:
        line, column = line.clip(0, ROWS - 1), column.clip(0, COLUMNS - 1)
    return line.astype(np.int64), column.astype(np.int64)


def _fill(image: Array, left: float, right: float, low: float, high: float) -> Array:
    """Return the part of `image` that a rectangle of the field covers; y points upwards."""
    x = np.clip(np.round(np.array([left, right]) * _PIXELS), 0, _PIXELS).astype(int)
    y = np.clip(np.round((1 - np.array([high, low])) * _PIXELS), 0, _PIXELS).astype(int)
    part: Array = image[y[0] : y[1], x[0] : x[1]]
    return part
