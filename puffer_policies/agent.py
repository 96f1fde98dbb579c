"""`Agent`: a trained policy that maps observations to actions of the env, and has its memory."""

from __future__ import annotations

import operator
import pickle
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from gymnasium.vector.utils import create_empty_array
from torch import nn

from puffer_policies.assembly.checkpoint import read_checkpoint
from puffer_policies.contract import ACTION_MASK
from puffer_policies.errors import BuildError, ContractError, IncompatibleSpace
from puffer_policies.hub.location import Location, checkpoint_of
from puffer_policies.nn.observations import to_tensor
from puffer_policies.registry import Registry
from puffer_policies.runs.evaluate import choose_actions, evaluation_mode, load_trained_policy
from puffer_policies.spaces import Spaces, action_layout, described, spaces_of
from puffer_policies.spaces.nested import leaves, map_nested
from puffer_policies.train.carry import Carry
from puffer_policies.train.feed import Previous, on_device, previous_of
from puffer_policies.wrappers.action_mask import mask_logits
from puffer_policies.wrappers.base import actor_of


class Agent:
    """A trained policy for code that steps envs by itself: NumPy in, NumPy out, no gradient.

    One env::

        agent = Agent.load("runs/CartPole-v1-20260101-120000")
        observation, _ = env.reset()
        agent.reset()
        action = agent.act(observation)

    A critic that sees more than the actor has no part in this: observations may have its keys or
    not, and `policy` and `spaces` are those of the actor alone.

    Args:
        policy: it runs in evaluation mode, and has its own mode again after each step.
        env: whatever `spaces_of` reads; needed for a policy that has no ``spaces`` of its own.
        deterministic: take the likeliest action instead of a random one.
        seed: of the random actions; torch's global generator is not used.
        use_rnn: True for a memory of PufferLib's form, without ``initial_state``; see `Carry`.

    Raises:
        BuildError: neither `env` nor the policy has spaces.
        IncompatibleSpace: no head serves the action space.
    """

    def __init__(
        self,
        policy: nn.Module,
        env: Any = None,
        *,
        deterministic: bool = True,
        seed: int = 0,
        use_rnn: bool | None = None,
    ) -> None:
        self._actor = actor_of(policy, _spaces(policy, env))
        self.policy, self.deterministic = self._actor.policy, deterministic
        self.spaces = self._actor.spaces
        self._layout = action_layout(self.spaces.action)
        self._template = create_empty_array(self.spaces.observation, 1)  # (1, *obs), nested
        parameter = next(self.policy.parameters(), None)
        self._device = torch.device("cpu") if parameter is None else parameter.device
        self._generator = torch.Generator(self._device).manual_seed(seed)
        # What is known of a whole policy need not be true of the actor in it.
        self._use_rnn = None if self._actor.is_part else use_rnn
        self._carry: Carry | None = None
        self._previous: Previous | None = None
        self._actions: np.ndarray | None = None  # of the step before
        self._starts = np.ones(0, dtype=bool)

    @classmethod
    def load(
        cls,
        path: Location,
        env: Any = None,
        *,
        best: bool = False,
        deterministic: bool = True,
        seed: int = 0,
        registry: Registry | None = None,
    ) -> Self:
        """Return the agent of a checkpoint or of the folder of a run.

        Neither the env nor its package is needed: the file holds the spaces.

        Args:
            path: the checkpoint, the folder, ``hf://org/name@revision`` or ``pretrained://name``.
            env: whatever `spaces_of` reads, to compare its spaces, from which keys that only the
                critic sees may be missing; needed only for a file that holds its spaces as texts,
                and was not written by a run.
            best: the run's best checkpoint instead of its last.
            deterministic: as for the class.
            seed: as for the class.
            registry: where the policy's names are looked up; the default registry if None.

        Raises:
            CheckpointError: the file can't be read, or holds neither spaces nor the name of an env
                and `env` is None.
        """
        path = checkpoint_of(path, best=best, registry=registry)
        checkpoint = read_checkpoint(path)
        spaces = checkpoint.header.spaces
        if env is None and spaces is None and "env_name" in checkpoint.header.config:
            # Before format 2, a file had its spaces as texts only.
            trained = load_trained_policy(path, registry=registry)
            policy, spaces = trained.policy, trained.spaces
        else:
            policy = checkpoint.build_policy(env, registry=registry)
        return cls(
            policy.eval(),
            spaces if env is None else env,
            deterministic=deterministic,
            seed=seed,
            use_rnn=_use_rnn(checkpoint.header.config),
        )

    def __getstate__(self) -> bytes:
        """Return the agent as bytes, for `pickle` and for worker processes.

        Torch lets a tensor that is sent to a process share its memory, which needs file handles
        that a spawned worker may not get, and would tie the agents together.
        """
        generator = (self._generator.device, self._generator.get_state())
        return pickle.dumps({**self.__dict__, "_generator": generator})

    def __setstate__(self, state: bytes) -> None:
        """Become the agent of `__getstate__`, in the same step and with the same random numbers."""
        attributes = pickle.loads(state)
        device, generator_state = attributes.pop("_generator")
        self.__dict__.update(attributes)
        self._generator = torch.Generator(device)
        self._generator.set_state(generator_state)

    def reset(self) -> None:
        """Forget everything. The next observation is the first of an episode in every row."""
        self._carry = None

    @torch.no_grad()
    def act(
        self,
        observation: Any,
        *,
        episode_start: Any = None,
        action_mask: Any = None,
        reward: Any = None,
    ) -> Any:
        """Return the action for an observation, or the actions for those of a vector env.

        Args:
            observation: a member of the observation space, or a batch (B, *obs) of them, nested
                as the space is.
            episode_start: bool or (B,) bool, true where an observation is the first of an episode,
                so that the memory of its row starts anew. It is not needed after `reset`.
            action_mask: (A,) or (B, A), true where an option is allowed, with the options of all
                choices side by side; or a tuple with a mask for each choice; or, for a Dict or
                Tuple, a dict or tuple with a mask for each part. A forbidden action is never taken,
                also by a policy that does not read masks.
            reward: float or (B,), the reward of the last action, for a policy that reads it, such
                as one in a PrevActionRewardWrapper.

        Returns:
            For one observation a member of the action space: an int for Discrete, a dict or tuple
            for Dict and Tuple, else an array of the space's shape and dtype, clipped to a Box. For
            a batch, (B, *shape), in each part of a Dict or Tuple.

        Raises:
            IncompatibleSpace: the shapes are not those of the space, or there are more or fewer
                rows than before without a `reset`.
            ContractError: the policy needs a mask or a reward, and there is none.
            TrainingError: the policy's outputs are not finite.
        """
        batch, batched = self._batch(observation)
        carry = self._carry_of(len(next(leaves(batch))))
        starts = self._next_starts(episode_start)
        # Copied, because a policy may keep observations in its state, and envs reuse their arrays.
        tensors = map_nested(lambda leaf: to_tensor(leaf).to(self._device, copy=True), batch)
        mask = self._mask(action_mask, rows=len(starts), batched=batched)
        with evaluation_mode(self.policy):
            extras = self._extras(mask, reward, starts)
            logits, _ = carry.step(tensors, starts, extras=extras)
        # A policy that reads the mask has applied it already; for any other it is applied here.
        masked = logits if mask is None else mask_logits(logits, mask)
        actions = choose_actions(masked, self._generator, deterministic=self.deterministic)
        self._actions = actions.cpu().numpy()
        members = self._layout.to_env(self._actions)
        if batched:
            return members
        member = map_nested(operator.itemgetter(0), members)
        return int(member) if self._layout.kind == "discrete" else member

    def _batch(self, observation: Any) -> tuple[Any, bool]:
        """Return `observation` as a batch in the space's dtypes, and whether it was a batch."""
        try:
            arrays = map_nested(
                lambda own, leaf: np.asarray(leaf, dtype=own.dtype),
                self._template,
                self._actor.see(observation),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise _misshapen(f"it can't be read as one ({reason})", self.spaces) from error
        expected_shapes = [leaf.shape[1:] for leaf in leaves(self._template)]
        shapes = [leaf.shape for leaf in leaves(arrays)]
        if shapes == expected_shapes:
            return map_nested(lambda leaf: leaf[None], arrays), False
        rows = {shape[0] if shape else 0 for shape in shapes}
        if len(rows) == 1 and [shape[1:] for shape in shapes] == expected_shapes:
            return arrays, True
        actual = ", ".join(map(str, shapes))
        expected = ", ".join(map(str, expected_shapes))
        raise _misshapen(f"its shape is {actual}, expected {expected}", self.spaces)

    def _carry_of(self, rows: int) -> Carry:
        """Return the memory of `rows` rows, a new one after `reset`."""
        if self._carry is None:
            self._carry = Carry(self.policy, rows, device=self._device, use_rnn=self._use_rnn)
            self._starts = np.ones(rows, dtype=bool)
            self._previous = previous_of(self.policy, self._layout, rows)
            self._actions = None
        if len(self._starts) != rows:
            raise IncompatibleSpace(
                f"The agent remembers {len(self._starts)} envs, and was shown {rows} observations.",
                fix="Pass observations of all envs in each step, or call reset() before those of "
                "other envs.",
            )
        return self._carry

    def _next_starts(self, episode_start: Any) -> torch.Tensor:
        """Return (B,) bool: the rows of `episode_start`, or all rows in the step after a reset."""
        starts = self._starts
        if episode_start is not None:
            try:
                starts = starts | np.asarray(episode_start, dtype=bool)
            except ValueError as error:
                raise IncompatibleSpace(
                    f"episode_start has shape {np.shape(episode_start)} for {len(starts)} envs.",
                    fix="Give one bool for each env.",
                ) from error
        self._starts = np.zeros_like(starts)
        return torch.from_numpy(starts).to(self._device)

    def _extras(
        self, mask: torch.Tensor | None, reward: Any, starts: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return what the policy reads besides observations, by state key."""
        extras = {} if mask is None else {ACTION_MASK: mask}
        if self._previous is None:
            return extras
        if self._actions is not None:
            # At the start of an episode, the last action and reward mean nothing.
            if reward is None and not starts.all():
                raise ContractError(
                    "The policy reads the reward of its last action, and there is none.",
                    fix="Pass the reward of env.step(): act(observation, reward=reward).",
                )
            rewards = np.zeros(1) if reward is None else np.atleast_1d(reward)
            self._previous.update(self._actions, rewards)
        return {**extras, **on_device(self._previous.extras(), self._device)}

    def _mask(self, action_mask: Any, *, rows: int, batched: bool) -> torch.Tensor | None:
        """Return a mask as bool (B, A) on the device, in which each choice has an option."""
        if action_mask is None:
            return None
        mask = self._layout.flat_mask(action_mask)
        if isinstance(action_mask, dict) and mask.all() and mask.ndim == 1:
            mask = np.broadcast_to(mask, (rows, len(mask)))  # no part has a mask
        elif not batched:
            mask = mask[None]
        nvec = self._layout.nvec
        if mask.shape != (rows, sum(nvec)):
            raise IncompatibleSpace(
                f"action_mask has shape {mask.shape[1 - batched :]} for {rows} of "
                f"{described(self.spaces.action)}.",
                fix=f"It has a value for each of {sum(nvec)} options, true where it is allowed.",
            )
        choices = np.split(mask, np.cumsum(nvec)[:-1], axis=-1)
        if not all(choice.any(-1).all() for choice in choices):
            raise IncompatibleSpace(
                "action_mask allows nothing.", fix="Allow at least one option of each choice."
            )
        return torch.from_numpy(mask).to(self._device)


def _misshapen(reason: str, spaces: Spaces) -> IncompatibleSpace:
    return IncompatibleSpace(
        f"This is not an observation of {described(spaces.observation)}: {reason}.",
        fix="Pass what env.reset() or env.step() returned, of one env or of a vector env.",
    )


def _use_rnn(config: Mapping[str, Any]) -> bool | None:
    """Return what the config in a header says of the memory; None if it says nothing."""
    train = config.get("train")
    value = train.get("use_rnn") if isinstance(train, dict) else None
    return value if isinstance(value, bool) else None


def _spaces(policy: nn.Module, env: Any) -> Spaces:
    spaces = getattr(policy, "spaces", None) if env is None else spaces_of(env)
    if spaces is None:
        raise BuildError(
            f"{type(policy).__name__} does not say for which spaces it was built.",
            fix="Pass the env as well: Agent(policy, env).",
        )
    return spaces_of(spaces)
