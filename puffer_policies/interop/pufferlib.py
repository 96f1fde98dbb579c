"""Our policies in PufferLib 3.0's trainer, by name: `use_registry()`, then ``pufferl`` as ever.

``python -m puffer_policies.interop.pufferlib train puffer_squared --policy-name Default`` is its
command line with this registry. https://github.com/PufferAI/PufferLib

PufferLib carries two tensors (B, W) from step to step, which it fills with 0 before each rollout,
and trains on segments that begin without them. It says nothing of where episodes start, so that
the observation has to: see `EpisodeStartWrapper`. `N` rows of a batch, `B` agents or segments, `T`
steps of a segment, `S` numbers of a state.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces as gym_spaces
from torch import Tensor, nn

from puffer_policies.assembly.blueprint import PolicyLike
from puffer_policies.assembly.factory import get_policy
from puffer_policies.contract import EPISODE_START, LSTM_STATE, State
from puffer_policies.errors import BuildError, ContractError, MissingDependency
from puffer_policies.interop.guest import Guest
from puffer_policies.nn.observations import leaf_spaces
from puffer_policies.registry.specs import PolicySpec
from puffer_policies.spaces import Spaces, action_layout
from puffer_policies.spaces.nested import leaves

OBSERVATION = "observation"
"""Key of the env's own observation beside `EPISODE_START`, in an `EpisodeStartWrapper`."""

NO_MEMORY = "None"
"""A memory's name for none: where a file of PufferLib names one, no flag can take it away."""

_BUILT = "_policy_of_puffer_policies"
"""By which PufferLib's own loader finds what is built already."""


class EpisodeStartWrapper(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An env whose observation says where an episode starts, for `PufferLibPolicy` to reset there.

    It goes inside PufferLib's emulation: ``GymnasiumPufferEnv(EpisodeStartWrapper(env), buf=buf)``.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        start = gym_spaces.Box(0, 1, (1,), np.uint8)
        self.observation_space = gym_spaces.Dict(
            {EPISODE_START: start, OBSERVATION: env.observation_space}
        )

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        observation, info = self.env.reset(**options)
        return self._with_start(observation, 1), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step, which starts nothing."""
        observation, *rest = self.env.step(action)
        return self._with_start(observation, 0), *rest  # type: ignore[return-value]

    def _with_start(self, observation: Any, start: int) -> dict[str, Any]:
        return {EPISODE_START: np.full(1, start, np.uint8), OBSERVATION: observation}


class PufferLibPolicy(nn.Module):
    """A policy of this package as PufferLib's trainer takes it.

    Its ``hidden_size`` is the width of the two tensors that PufferLib carries, so that any state
    fits into them. Observations that PufferLib has flattened are unpacked.

    Args:
        policy: whatever `get_policy` builds, or a policy that is built for `env`.
        env: an env of PufferLib, such as ``vecenv.driver_env``.

    Raises:
        PolicyError: as of `get_policy`.
        BuildError: PufferLib does not send what the policy reads, or would send its actions to the
            env as others than they are.
    """

    policy: nn.Module
    """The policy itself: `save_checkpoint` saves it for our own tools."""

    lstm = True
    """PufferLib's distributed trainer copies `hidden_size` where there is this attribute."""

    def __init__(self, policy: PolicyLike | nn.Module, env: Any) -> None:
        super().__init__()
        self._source = _Source(env)
        self.guest = Guest(policy, self._source.spaces, library="PufferLib")
        self.policy = self.guest.policy
        self.guest.require_no_previous()
        self.guest.require_mask_observed()
        _require_actions(env)
        self.is_continuous = self.guest.layout.is_continuous
        self.hidden_size = int(getattr(self.policy, "hidden_size", 0) or 1)
        self._is_marked = False
        if self.has_memory:
            first = self.guest.initial_state(1)
            # PufferLib begins with zeros. Where a policy does not, one more number says whether
            # there is a state at all.
            self._is_marked = first.requires_grad or bool(first.any())
            self.hidden_size = math.ceil((self.guest.packed.size + self._is_marked) / 2)
            if not self._source.shows_starts:
                warnings.warn(
                    f"PufferLib does not say where an episode starts: the memory of "
                    f"{self._name} goes on from each episode to the next, in rollouts and in "
                    "training. Put an EpisodeStartWrapper around the env, inside its emulation, "
                    "and it is reset exactly.",
                    stacklevel=2,
                )
        self._steps: dict[int, int] | None = {}
        self._has_learned, self._rows_seen = False, 0
        self._rows_of_rollout: float = math.inf

    @property
    def has_memory(self) -> bool:
        """Whether PufferLib has to carry a state: its option ``use_rnn``."""
        return bool(self.guest.packed.size)

    def forward_eval(self, observations: Tensor, state: State | None = None) -> tuple[Any, Tensor]:
        """Take a step of B agents -> logits, values (B, 1); `state` is brought up to date."""
        state = {} if state is None else state
        obs, starts = self._source.read(observations)
        self._count(obs, starts, state)
        packed, starts = self._carried(state, starts)
        logits, values, packed = self.guest.step(obs, packed, starts)
        if self.has_memory:
            self._carry(state, packed)
        return logits, values

    def forward(self, observations: Tensor, state: State | None = None) -> tuple[Any, Tensor]:
        """(N, *obs) or (B, T, *obs) -> logits of N or B * T rows, values (N, 1) or (B, T)."""
        obs, starts = self._source.read(observations)
        lead = starts.shape
        starts = starts.reshape(lead[0], -1)
        self._require_whole_segments(starts.shape[1])
        self._has_learned = True
        packed, first = self._carried({} if state is None else state, starts[:, 0])
        starts = torch.cat([first.unsqueeze(1), starts[:, 1:]], 1)
        logits, values = self.guest.sequences(obs, packed, starts)
        return logits, values.reshape(lead) if len(lead) == 2 else values

    # -- the state ---------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return str(getattr(self.policy, "spec", None) or type(self.policy).__name__)

    def _carried(self, state: Mapping[str, Any], starts: Tensor) -> tuple[Tensor, Tensor]:
        """Return the state (B, S), and the starts (B,) with those that the state tells of."""
        rows = len(starts)
        if not self.has_memory:
            return self.guest.initial_state(rows), starts
        if any(key not in state for key in LSTM_STATE):
            raise ContractError(
                f"{self._name} has a memory, and PufferLib carries nothing: there is no "
                f"{' or '.join(LSTM_STATE)} in its state.",
                fix="Set use_rnn = True in the configuration of its trainer; the loader of "
                "use_registry() does so.",
            )
        pair = [state[key] for key in LSTM_STATE]
        if any(each is None for each in pair):
            return self.guest.initial_state(rows), starts
        shapes = [tuple(each.shape) for each in pair]
        if any(shape[-1] != self.hidden_size or math.prod(shape[:-1]) != rows for shape in shapes):
            raise ContractError(
                f"{' and '.join(LSTM_STATE)} have shapes {shapes[0]} and {shapes[1]}; expected "
                f"{(rows, self.hidden_size)} or {(1, rows, self.hidden_size)}.",
                fix="Give zeros of the policy's hidden_size, or None, before the first step.",
            )
        numbers = torch.cat([each.reshape(rows, -1) for each in pair], 1)
        size = self.guest.packed.size
        if self._is_marked:
            starts = starts | (numbers[:, size] == 0)
        return numbers[:, :size], starts

    def _carry(self, state: State, packed: Tensor) -> None:
        """Write a state (B, S) into the two tensors (B, W)."""
        filled = packed.new_zeros(len(packed), 2 * self.hidden_size)
        filled[:, : self.guest.packed.size] = packed
        if self._is_marked:
            filled[:, self.guest.packed.size] = 1
        # Tensors of their own, as PufferLib writes zeros into them.
        for key, half in zip(LSTM_STATE, filled.detach().chunk(2, 1), strict=True):
            state[key] = half.clone()

    # -- rollouts ----------------------------------------------------------------------------------

    def _count(self, obs: Any, starts: Tensor, state: Mapping[str, Any]) -> None:
        """Note what a rollout shows; PufferLib's ``eval`` sends no rewards, and counts nothing."""
        if "reward" not in state:
            return
        if self._has_learned:
            self._has_learned = False
            self._rows_seen = 0
            self.guest.update_statistics()
        if self._steps is not None and self.has_memory:
            first = getattr(state.get("env_id"), "start", 0)
            carried = state.get(LSTM_STATE[0])
            # PufferLib writes zeros at the beginning of a rollout.
            before = self._steps.get(first, 0) if carried is not None and carried.any() else 0
            self._steps[first] = before + 1
        # PufferLib ends with rollouts that it does not learn from, which would pile up.
        if self._rows_seen < self._rows_of_rollout:
            self._rows_seen += len(starts)
            self.guest.see(obs)

    def _require_whole_segments(self, length: int) -> None:
        """Raise `BuildError` where an agent's rollout is trained as several segments."""
        if self._steps is None:
            return
        longest = max(self._steps.values(), default=0)
        self._steps, self._rows_of_rollout = None, self._rows_seen or math.inf
        if longest > length:
            raise BuildError(
                f"An agent's rollout has {longest} steps, and PufferLib trains segments of "
                f"{length} steps. It begins each of them without a memory, but has collected all "
                f"but the first with one, so that {self._name} would be trained as another policy.",
                fix=f"Divide train.batch_size by {longest // length}, or set it to auto: "
                "bptt_horizon steps of every agent.",
            )


class _Source:
    """What PufferLib makes of an env's spaces, undone."""

    def __init__(self, env: Any) -> None:
        emulated = getattr(env, "emulated", None)
        self.dtype: np.dtype[Any] | None = None
        self.flat = env.single_observation_space
        observation = self.flat
        if emulated:
            observation = _own_space(env, OBSERVATION)
            if observation is not self.flat:
                self.dtype = emulated["emulated_observation_dtype"]
                _require_room(self.flat, self.dtype)
        self.leaves = leaf_spaces(observation)
        self.shows_starts = isinstance(self.leaves, dict) and set(self.leaves) == {
            EPISODE_START,
            OBSERVATION,
        }
        if self.shows_starts:
            observation = observation[OBSERVATION]
        self.spaces = Spaces(observation, env.single_action_space)

    def read(self, observations: Tensor) -> tuple[Any, Tensor]:
        """Return observations of all rows as the policy reads them, and starts (B,) or (B, T)."""
        shape = self.flat.shape
        lead = observations.shape[: observations.ndim - len(shape)]
        if observations.shape[len(lead) :] != shape or len(lead) not in (1, 2):
            raise ContractError(
                f"Observations have shape {tuple(observations.shape)}; expected {shape} after an "
                "axis of agents and, in training, one of steps."
            )
        rows = observations.reshape(-1, *shape)
        if self.dtype is None:
            return rows, torch.zeros(lead, dtype=torch.bool, device=rows.device)
        tree = _unpacked(rows.contiguous().view(torch.uint8), self.dtype, self.leaves)
        if not self.shows_starts:
            return tree, torch.zeros(lead, dtype=torch.bool, device=rows.device)
        return tree[OBSERVATION], (tree[EPISODE_START] > 0).reshape(lead)


def _own_space(env: Any, kind: str) -> Any:
    """Return a space of the env inside PufferLib's emulation."""
    of_agent = getattr(env, f"env_single_{kind}_space", None)  # of PettingZoo
    return getattr(env.env, f"{kind}_space") if of_agent is None else of_agent


def _require_room(flat: Any, dtype: np.dtype[Any]) -> None:
    room = math.prod(flat.shape) * flat.dtype.itemsize
    if room < dtype.itemsize:
        raise BuildError(
            f"PufferLib's emulation gives {room} bytes to observations of {dtype.itemsize} bytes "
            f"({dtype}).",
            fix="An EpisodeStartWrapper around the env, inside its emulation, makes a Dict of it, "
            "for which there is room.",
        )


def _unpacked(rows: Tensor, dtype: np.dtype[Any], leaves: Any, offset: int = 0) -> Any:
    """(N, bytes) uint8 -> the observations of a structured dtype, nested like `leaves`."""
    if dtype.fields is not None:
        names = dtype.names or ()
        parts = [
            _unpacked(rows, dtype[name], branch, offset + dtype.fields[name][1])
            for name, branch in zip(names, _branches(leaves, names), strict=True)
        ]
        return dict(zip(names, parts, strict=True)) if isinstance(leaves, dict) else tuple(parts)
    # A copy in one piece, as a dtype of several bytes can't be seen in numbers that are apart.
    numbers = rows[:, offset : offset + dtype.itemsize].reshape(-1).clone()
    kind = torch.from_numpy(np.empty(0, dtype.base)).dtype
    return numbers.view(kind).reshape(len(rows), *dtype.shape)


def _branches(leaves: Any, names: tuple[str, ...]) -> list[Any]:
    return [leaves[name] for name in names] if isinstance(leaves, dict) else list(leaves)


def _require_actions(env: Any) -> None:
    """Raise `BuildError` where the env would get other actions than the policy takes."""
    space = env.single_action_space
    own = _own_space(env, "action") if getattr(env, "emulated", None) else space
    layout = action_layout(space)
    problem = ""
    if len(layout.shape) > 1 or (layout.is_continuous and not layout.shape):
        problem = f"PufferLib takes actions of {space} for a vector."
    for leaf in leaves(leaf_spaces(own)):
        inner = action_layout(leaf)
        if inner.kind == "multibinary":
            problem = f"PufferLib turns {leaf} into a single choice."
        elif not inner.is_continuous and np.any(np.array(inner.start)):
            problem = f"PufferLib counts the choices of {leaf} from 0."
    if problem:
        raise BuildError(
            problem, fix="Change the action space in a wrapper of the env, inside its emulation."
        )


# -- names -----------------------------------------------------------------------------------------


def use_registry() -> None:
    """Let PufferLib's ``load_policy`` look names up in this registry, after its own.

    ``policy_name`` is any name, expression or preset; ``rnn_name`` is a wrapper of ours, around a
    policy of either. Names that the env's package has stay those of PufferLib. To call it again
    changes nothing.

    Raises:
        MissingDependency: PufferLib is not installed.
    """
    trainer = _trainer()
    if not isinstance(trainer.load_policy, _Loader):
        trainer.load_policy = _Loader(trainer.load_policy)


def _trainer() -> Any:
    try:
        return importlib.import_module("pufferlib.pufferl")
    except ImportError as error:
        raise MissingDependency(
            f"PufferLib's trainer can't be imported: {error}.",
            fix="Install PufferLib 3.0 in an environment with NumPy 1 and gymnasium 0.29: "
            "docs/interop/pufferlib.md has the commands.",
        ) from error


class _Loader:
    """PufferLib's ``load_policy``, which also knows the names of the registry."""

    def __init__(self, original: Any) -> None:
        self.original = original

    def __call__(self, args: Mapping[str, Any], vecenv: Any) -> nn.Module:
        """Return the policy that `args` name, on its device and with the weights that they name."""
        package = args["package"]
        name = "pufferlib.ocean" if package == "ocean" else f"pufferlib.environments.{package}"
        classes = importlib.import_module(name).torch
        policy, memory = args["policy_name"], args["rnn_name"]
        memory = None if memory == NO_MEMORY else memory
        is_theirs = hasattr(classes, policy)
        if is_theirs and (memory is None or hasattr(classes, memory)):
            args["train"]["use_rnn"] = memory is not None
            return self.original({**args, "rnn_name": memory}, vecenv)  # type: ignore[no-any-return]
        if memory is not None and hasattr(classes, memory):
            raise BuildError(
                f"{memory} is a memory of PufferLib's, which initializes {policy} anew when it is "
                "put around it, and passes over its wrappers and its own memory.",
                fix="Name one of ours, such as --rnn-name LSTMWrapper, or --rnn-name None.",
            )
        wrappers = []
        if memory is not None:
            wrappers = [str(PolicySpec.parse(memory).with_kwargs(args.get("rnn") or {}))]
        env = vecenv.driver_env
        module = get_policy(
            getattr(classes, policy) if is_theirs else policy,
            env if is_theirs else _Source(env).spaces,
            wrappers=wrappers,
            # Inside a memory of ours, a class of PufferLib's needs no forward of its own.
            validate="off" if is_theirs else "static",
            **(args.get("policy") or {}),
        )
        guest = PufferLibPolicy(module, env)
        args["train"]["use_rnn"] = guest.has_memory
        # The original moves it to its device and loads its weights.
        setattr(classes, _BUILT, lambda _: guest)
        try:
            return self.original(  # type: ignore[no-any-return]
                {**args, "policy_name": _BUILT, "policy": {}, "rnn_name": None}, vecenv
            )
        finally:
            delattr(classes, _BUILT)


if __name__ == "__main__":
    use_registry()
    _trainer().main()
