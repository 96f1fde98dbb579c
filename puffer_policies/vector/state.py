"""The state of envs as plain data: `get_state` and `set_state`, with adapters for gymnasium's envs.

Gymnasium has no call for this. An env, a wrapper or a vector env offers its state by two methods
of its own:

``get_state()``
    returns, as plain data, all that decides how it goes on: physics, counters, random generators.
``set_state(state)``
    takes what ``get_state()`` of an env made in the same way returned, after at least one reset.

Plain data are None, bool, int, float and str, NumPy's numbers and its arrays of numbers, and lists,
tuples and dicts by str of plain data. Nothing is pickled, and no class is named or imported.

Each layer speaks for itself alone: a wrapper leaves out the env inside, and a wrapper without any
state returns None. A vector env speaks for its copies, too. A layer that has neither the methods
nor an adapter here makes the state of the whole env unavailable: nothing is guessed.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from puffer_policies.errors import EnvError
from puffer_policies.vector.faults import FAULTS, first_line

ATOMS = (type(None), bool, int, float, str)
NUMBERS = "biufc"
"""NumPy's kinds of numbers; arrays of objects would be addresses in one process's memory."""

_CONTROL = "gymnasium.envs.classic_control."
_TOYS = "gymnasium.envs.toy_text."
_WRAPPERS = "gymnasium.wrappers."
_OURS = "puffer_policies.envs.no_velocity."
_CARTPOLE_VECTOR = ("state", "steps", "prev_done", "low", "high")
_EPISODE_STATISTICS = (
    *("episode_count", "episode_returns", "episode_lengths"),
    *("return_queue", "length_queue", "time_queue"),
)

# By the full name of the class, and not by `isinstance`: a subclass may hold more than its base,
# and a state that forgets something would resume wrongly without a word.
ENV_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    _CONTROL + "acrobot.AcrobotEnv": ("state",),
    _CONTROL + "cartpole.CartPoleEnv": ("state", "steps_beyond_terminated"),
    _CONTROL + "cartpole.CartPoleVectorEnv": _CARTPOLE_VECTOR,
    _CONTROL + "continuous_mountain_car.Continuous_MountainCarEnv": ("state",),
    _CONTROL + "mountain_car.MountainCarEnv": ("state",),
    _CONTROL + "pendulum.PendulumEnv": ("state", "last_u"),
    _OURS + "CartPoleNoVel": ("state", "steps_beyond_terminated"),
    _OURS + "CartPoleNoVelVector": _CARTPOLE_VECTOR,
    _OURS + "MountainCarContinuousNoVel": ("state",),
    _OURS + "PendulumNoVel": ("state", "last_u"),
    _TOYS + "blackjack.BlackjackEnv": ("player", "dealer"),
    _TOYS + "cliffwalking.CliffWalkingEnv": ("s", "lastaction"),
    _TOYS + "frozen_lake.FrozenLakeEnv": ("s", "lastaction"),
    _TOYS + "taxi.TaxiEnv": ("s", "lastaction", "fickle_step", "taxi_orientation"),
}
"""What these envs hold besides their random generator."""

WRAPPER_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    _WRAPPERS + "common.Autoreset": ("autoreset",),
    _WRAPPERS + "common.OrderEnforcing": ("_has_reset",),
    # It only warns: a fresh one checks the first step again.
    _WRAPPERS + "common.PassiveEnvChecker": (),
    # Without the time at which the episode began: clocks of two processes can't be compared.
    _WRAPPERS + "common.RecordEpisodeStatistics": _EPISODE_STATISTICS,
    _WRAPPERS + "common.TimeLimit": ("_elapsed_steps",),
    **dict.fromkeys(
        (
            *(f"{_WRAPPERS}transform_action.{name}" for name in ("ClipAction", "RescaleAction")),
            _WRAPPERS + "transform_observation.DtypeObservation",
            _WRAPPERS + "transform_observation.FilterObservation",
            _WRAPPERS + "transform_observation.FlattenObservation",
            _WRAPPERS + "transform_observation.RescaleObservation",
            _WRAPPERS + "transform_observation.ReshapeObservation",
            _WRAPPERS + "transform_reward.ClipReward",
        ),
        (),
    ),
}
"""What these wrappers hold. Those that call any function are missing, as it may remember things."""

_SYNC = "gymnasium.vector.sync_vector_env.SyncVectorEnv"


def get_state(env: Any) -> list[Any]:
    """Return the state of an env with its wrappers and copies, as plain data of its own.

    Raises:
        EnvError: some layer does not offer its state, or returned something else than plain data.
    """
    return [[_class_name(layer), _state_of(layer)] for layer in _layers(env)]


def set_state(env: Any, state: Any) -> None:
    """Put a state of `get_state` into an env that was made in the same way and reset.

    Raises:
        EnvError: `env` has other layers, or its state can't be read. It must be reset then.
    """
    layers = list(_layers(env))
    try:
        names = [name for name, _ in state]
        if names != [_class_name(layer) for layer in layers]:
            raise EnvError(
                f"The saved state belongs to {' in '.join(names)}; this env is "
                f"{' in '.join(map(_class_name, layers))}."
            )
        for layer, (_, saved) in zip(layers, state, strict=True):
            _set_layer(layer, copy.deepcopy(saved))
    except EnvError:
        raise
    except FAULTS as error:  # set_state of any env
        raise EnvError(
            f"The saved state of {_class_name(env)} can't be used: {first_line(error)}."
        ) from error


def offers_state(env: Any) -> bool:
    """Whether an env's class has both methods. Those of an object inside do not count."""
    return all(callable(getattr(type(env), name, None)) for name in ("get_state", "set_state"))


def require_plain(value: Any, path: str) -> None:
    """Refuse whatever is not plain data.

    Raises:
        EnvError: says what is not, and where in `path`.
    """
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        for i, each in enumerate(value):
            require_plain(each, f"{path}[{i}]")
    elif type(value) is dict and all(type(key) is str for key in value):
        for key, each in value.items():
            require_plain(each, f"{path}[{key!r}]")
    elif type(value) not in ATOMS and not _holds_numbers(value):
        kind = f"array of {value.dtype}" if isinstance(value, np.ndarray) else _class_name(value)
        raise EnvError(f"{path} is a {kind}, which cannot be saved as plain data.")


def _holds_numbers(value: Any) -> bool:
    return isinstance(value, np.ndarray | np.generic) and value.dtype.kind in NUMBERS


def _class_name(thing: Any) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _layers(env: Any) -> Iterator[Any]:
    """Yield the wrappers, outermost first, and then what they are around."""
    yield env
    # What is not a wrapper, among them the vector envs of ours, is its own `unwrapped`. ManiSkill's
    # vector env is one, and keeps another env in its own way: it speaks for its copies.
    while getattr(env, "unwrapped", env) is not env and hasattr(env, "env"):
        env = env.env
        yield env


def _state_of(layer: Any) -> Any:
    name = _class_name(layer)
    if offers_state(layer):
        return _own_state(layer, name)
    if name == _SYNC:
        copies = [get_state(each) for each in layer.envs]
        # The other arrays of a SyncVectorEnv are written anew in each step before they are read.
        return {"copies": copies, "autoreset": layer._autoreset_envs.copy()}
    if name in ENV_ATTRIBUTES:
        return {
            **_copy_attributes(layer, ENV_ATTRIBUTES[name]),
            "random": layer.np_random.bit_generator.state,
        }
    if name in WRAPPER_ATTRIBUTES:
        return _copy_attributes(layer, WRAPPER_ATTRIBUTES[name])
    raise EnvError(f"{name} has no get_state() and set_state(), so its state cannot be saved.")


def _own_state(layer: Any, name: str) -> Any:
    try:
        state = layer.get_state()
    except EnvError:
        raise
    except FAULTS as error:
        raise EnvError(f"get_state() of {name} failed: {first_line(error)}.") from error
    require_plain(state, f"{name}.get_state()")
    return copy.deepcopy(state)


def _set_layer(layer: Any, state: Any) -> None:
    name = _class_name(layer)
    if offers_state(layer):
        layer.set_state(state)
    elif name == _SYNC:
        # Private, but there is no other way: it alone says which copies restart in the next step.
        layer._autoreset_envs = state["autoreset"]
        for each, saved in zip(layer.envs, state["copies"], strict=True):
            set_state(each, saved)
    else:
        if "random" in state:
            # Into the generator that is there, as other objects of the env may hold it.
            layer.np_random.bit_generator.state = state.pop("random")
        _set_attributes(layer, state)


def _copy_attributes(layer: Any, names: tuple[str, ...]) -> dict[str, Any]:
    values = {name: copy.deepcopy(getattr(layer, name, None)) for name in names}
    return {name: list(v) if isinstance(v, deque) else v for name, v in values.items()}


def _set_attributes(layer: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        current = getattr(layer, name, None)
        if isinstance(current, deque):  # of a length that stays as the wrapper was made
            value = deque(value, maxlen=current.maxlen)
        setattr(layer, name, value)
