"""The floor: PPO by hand, with nothing in it that this one task does not need.

Plain PyTorch on gymnasium's native CartPole: one matrix for both heads, actions by the inverse of
the cumulative probabilities, buffers that NumPy and torch share, advantages in NumPy, a plain loss
under autograd, fused Adam. No memory of general spaces, masks, devices or checkpoints, and no
measurements of the loss. With ``lstm`` it has an LSTM of torch, which is never reset, neither in a
rollout nor in training, so it does less than a trainer with exact resets.

It learns: ``python benchmarks/peers/floor.py lstm? NUM_ENVS? --learn`` prints returns.
"""

from __future__ import annotations

import sys
from collections import deque

import gymnasium
import numpy as np
import torch
import turns
from torch import Tensor, nn
from torch.nn import functional

NUM_ACTIONS = 2


class Network(nn.Module):
    """One hidden layer, perhaps an LSTM, and one matrix that gives logits and the value."""

    def __init__(self, observation_size: int, *, memory: bool) -> None:
        super().__init__()
        size = turns.HIDDEN_SIZE
        self.encoder = nn.Linear(observation_size, size)
        self.memory = nn.LSTM(size, size) if memory else None
        self.heads = nn.Linear(size, NUM_ACTIONS + 1)
        nn.init.orthogonal_(self.encoder.weight, 2**0.5)
        nn.init.orthogonal_(self.heads.weight[:-1], 0.01)
        nn.init.orthogonal_(self.heads.weight[-1:], 1.0)
        nn.init.zeros_(self.encoder.bias)
        nn.init.zeros_(self.heads.bias)
        if self.memory is not None:
            for name, parameter in self.memory.named_parameters():
                if "weight" in name:
                    nn.init.orthogonal_(parameter)
                else:
                    nn.init.zeros_(parameter)

    def encode(self, x: Tensor) -> Tensor:
        """(N, *obs) -> (N, H)."""
        weight, bias = self.encoder.weight, self.encoder.bias
        if torch.is_grad_enabled():
            # For a weight in this order MKL computes the gradient 6 times faster.
            return functional.gelu(torch.addmm(bias, x, weight.t().contiguous()))
        return functional.gelu(functional.linear(x, weight, bias))

    def decode(self, hidden: Tensor) -> Tensor:
        """(N, H) -> (N, actions + 1): logits, value."""
        return functional.linear(hidden, self.heads.weight, self.heads.bias)


class Floor:
    """The trainer; `N` envs, `T` steps.

    Without memory minibatches hold steps, and with it whole rows of envs.
    """

    def __init__(self, num_envs: int, *, memory: bool) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(turns.SEED)
        steps = turns.NUM_STEPS
        self.envs = gymnasium.make_vec(
            turns.ENV_ID, num_envs, vectorization_mode="vector_entry_point"
        )
        (size,) = self.envs.single_observation_space.shape  # type: ignore[misc]
        self.network = Network(size, memory=memory)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=turns.LEARNING_RATE, eps=1e-5, fused=True
        )
        shape = (steps, num_envs)
        # Time first. Of tensors and arrays of one name the memory is the same.
        self.observations = torch.zeros(steps + 1, num_envs, size)
        self.actions = torch.zeros(shape, dtype=torch.int64)
        self.numbers = torch.zeros(4, *shape)
        """Log-probabilities, advantages, returns, values."""
        self.rows = [each.numpy() for each in self.observations]
        self.rewards = np.zeros(shape, np.float32)
        self.terminated, self.done, self.ghost = (np.zeros(shape, bool) for _ in range(3))
        self.state = [torch.zeros(num_envs, turns.HIDDEN_SIZE) for _ in range(2 * memory)]
        self.first_state = self.state
        self.rows[-1][:], _ = self.envs.reset(seed=turns.SEED)
        self.finished = np.zeros(num_envs, bool)
        self.running_returns = np.zeros(num_envs)
        self.returns: deque[float] = deque(maxlen=100)

    def outputs(self, x: Tensor) -> Tensor:
        """One step: (N, *obs) -> (N, actions + 1)."""
        network = self.network
        hidden = network.encode(x)
        if network.memory is not None:
            self.state = list(torch.lstm_cell(hidden, self.state, *network.memory.all_weights[0]))
            hidden = self.state[0]
        return network.decode(hidden)

    @torch.no_grad()
    def collect(self) -> None:
        """Take T steps."""
        self.observations[0] = self.observations[-1]
        self.first_state = self.state
        uniform, choices = torch.rand(*self.actions.shape, 1), []
        for t in range(turns.NUM_STEPS):
            outputs = self.outputs(self.observations[t])
            probs = outputs[:, :NUM_ACTIONS].softmax(-1)
            # Whatever lies beyond the cumulative of the last but one is the last.
            action = (probs[:, :-1].cumsum(-1) <= uniform[t]).sum(-1)
            choices.append((outputs, action))
            self.rows[t + 1][:], reward, terminated, truncated, _ = self.envs.step(action.numpy())
            done = terminated | truncated
            self.rewards[t], self.terminated[t], self.done[t] = reward, terminated, done
            self.ghost[t] = self.finished  # a step that only restarts the env
            self.finished = done
            self.running_returns += reward
            if done.any():
                self.returns.extend(self.running_returns[done].tolist())
                self.running_returns[done] = 0.0
        outputs, self.actions = (torch.stack(each) for each in zip(*choices, strict=True))
        log_probs = outputs[..., :NUM_ACTIONS].log_softmax(-1)
        self.numbers[0] = log_probs.gather(-1, self.actions.unsqueeze(-1)).squeeze(-1)
        self.numbers[3] = outputs[..., -1]
        state = self.state
        self.last_value = self.outputs(self.observations[-1])[:, -1].numpy()
        self.state = state  # the observation comes again

    def estimate(self) -> None:
        """Write advantages and returns."""
        _, advantages, returns, values = self.numbers.numpy()
        following = np.concatenate([values[1:], self.last_value[None]])
        errors = self.rewards + (turns.GAMMA * ~self.terminated) * following - values
        decay = (turns.GAMMA * turns.GAE_LAMBDA) * ~self.done
        advantages[-1] = errors[-1]
        for t in range(turns.NUM_STEPS - 2, -1, -1):
            advantages[t] = errors[t] + decay[t] * advantages[t + 1]
        advantages[self.ghost] = 0.0
        returns[:] = advantages + values

    def update(self) -> None:
        """Make all gradient steps on the rollout."""
        memory = self.network.memory is not None
        observations, actions, numbers = self.observations[:-1], self.actions, self.numbers
        if not memory:
            observations, actions = observations.flatten(0, 1), actions.flatten()
            numbers = numbers.flatten(1)
        count = actions.shape[-1]
        for _ in range(turns.NUM_EPOCHS):
            order = torch.randperm(count)
            for rows in torch.split(order, count // turns.NUM_MINIBATCHES):
                along = int(memory)  # of (T, N, ...) the envs
                self.step(
                    observations.index_select(along, rows),
                    actions.index_select(along, rows),
                    numbers.index_select(along + 1, rows),
                    [each.index_select(0, rows).unsqueeze(0) for each in self.first_state],
                )

    def step(
        self, observations: Tensor, actions: Tensor, numbers: Tensor, state: list[Tensor]
    ) -> None:
        """Make one gradient step."""
        hidden = self.network.encode(observations.flatten(0, -2))
        if self.network.memory is not None:
            hidden = hidden.reshape(*observations.shape[:-1], -1)
            hidden, _ = self.network.memory(hidden, tuple(state))
            hidden = hidden.flatten(0, 1)
        # As columns (actions + 1, N), which are normalized several times faster.
        outputs = self.network.decode(hidden).t().contiguous()
        old_log_probs, advantages, returns, _ = numbers.flatten(1)
        log_probs = outputs[:NUM_ACTIONS].log_softmax(0)
        entropy = -(log_probs.exp() * log_probs).sum(0).mean()
        ratio = (log_probs.gather(0, actions.reshape(1, -1))[0] - old_log_probs).exp()
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        clipped = ratio.clamp(1 - turns.CLIP_COEF, 1 + turns.CLIP_COEF)
        policy = -torch.minimum(ratio * advantages, clipped * advantages).mean()
        value = 0.5 * (outputs[-1] - returns).square().mean()
        loss = policy + turns.VF_COEF * value - turns.ENT_COEF * entropy
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), turns.MAX_GRAD_NORM, foreach=True)
        self.optimizer.step()

    def train(self, num_updates: int) -> None:
        """Make so many updates."""
        for _ in range(num_updates):
            self.collect()
            self.estimate()
            self.update()


def main() -> None:
    """Build the trainer and take turns, or show that it learns."""
    floor = Floor(turns.num_envs(), memory=turns.wants_memory())
    if "--learn" not in sys.argv:
        turns.take_turns(floor.train)
        return
    for _ in range(20):
        floor.train(5)
        print(f"{np.mean(floor.returns):6.1f}")


if __name__ == "__main__":
    main()
