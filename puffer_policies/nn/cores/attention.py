"""Attention to the last steps of the episode, by content and by distance, as a core of layers.

The attention is Transformer-XL's (Dai et al. 2019, https://arxiv.org/abs/1901.02860), with a memory
of its own form: every query sees exactly the M steps before it, in a sequence as in single steps,
and nothing from before its episode's start; and what is carried on are a step's keys and values,
not what they were made of, so that a step costs one projection instead of M.

`B` batch, `T` time, `L` layers, `M` memory, `H` width, `A` heads, `D` = H/A.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from puffer_policies.nn.cores.base import After, Core, State, require_heads
from puffer_policies.nn.encoders import MAX_LAYERS, require_count
from puffer_policies.nn.init import layer_init


class RelativeAttention(nn.Module):
    """Attention of each step to itself and the M before it, by content and by distance."""

    def __init__(self, width: int, num_heads: int, memory: int) -> None:
        super().__init__()
        self.num_heads, self.memory = num_heads, memory
        self.query = layer_init(nn.Linear(width, width, bias=False), 1.0)
        self.key_value = layer_init(nn.Linear(width, 2 * width, bias=False), 1.0)
        self.distance = layer_init(nn.Linear(width, width, bias=False), 1.0)
        self.output = layer_init(nn.Linear(width, width, bias=False), 1.0)
        self.content_bias = nn.Parameter(torch.zeros(width))
        self.distance_bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("waves", _waves(memory + 1, width), persistent=False)

    def forward(
        self, x: Tensor, past: Tensor, allowed: Tensor, distances: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Attend to the carried steps and to those of the sequence.

        Args:
            x: (B, T, H).
            past: (B, M, 2 H), keys and values of the steps before.
            allowed: bool (B, T, M + T), what each step may look at.
            distances: int64 (T, M + T), how far back that lies.

        Returns:
            (B, T, H), and the keys and values of the last M steps (B, M, 2 H).
        """
        context = torch.cat([past, self.key_value(x).to(past.dtype)], 1)  # (B, M + T, 2 H)
        query = self.query(x)
        key, value = (self._heads(each.to(query.dtype)) for each in context.chunk(2, -1))
        by_distance = self._by_distance(query + self.distance_bias, distances)  # (B, A, T, M + T)
        # The scores of distance go in as the mask that torch adds to those of content, so that its
        # fused kernel does the softmax and the product with the values.
        bias = by_distance.masked_fill(~allowed.unsqueeze(1), float("-inf"))
        by_content = self._heads(query + self.content_bias)
        mixed = functional.scaled_dot_product_attention(by_content, key, value, attn_mask=bias)
        return self.output(mixed.transpose(1, 2).flatten(2)), context[:, x.shape[1] :]

    def _by_distance(self, query: Tensor, distances: Tensor) -> Tensor:
        """Return scores (B, A, T, M + T) of the distance between a step and what it looks at."""
        far = self._heads(self.distance(self.waves).unsqueeze(0)).squeeze(0)  # (A, M + 1, D)
        heads = self._heads(query).transpose(0, 1)  # (A, B, T, D)
        # One product per head: `far` is the same for every row. There are only M + 1 distances, so
        # the scores of all pairs are gathered from these, where Transformer-XL shifts a matrix.
        scores = heads.flatten(1, 2) @ far.mT * far.shape[-1] ** -0.5  # (A, B*T, M + 1)
        scores = scores.unflatten(1, heads.shape[1:3]).transpose(0, 1)  # (B, A, T, M + 1)
        by_pair: Tensor = scores.gather(-1, distances.expand(*scores.shape[:2], *distances.shape))
        return by_pair  # (B, A, T, M + T)

    def _heads(self, x: Tensor) -> Tensor:
        """(B, S, H) -> (B, A, S, D)."""
        return x.reshape(*x.shape[:2], self.num_heads, -1).transpose(1, 2)


class AttentionLayer(nn.Module):
    """Attention and a two-layer network, each with a layer norm."""

    def forward(
        self, x: Tensor, past: Tensor, allowed: Tensor, distances: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Apply attention and network; arguments and results are those of `RelativeAttention`."""
        raise NotImplementedError


def feedforward(width: int) -> nn.Sequential:
    """Return the network of a layer, (..., H) -> (..., H), 4 H wide inside."""
    return nn.Sequential(
        layer_init(nn.Linear(width, 4 * width)),
        nn.ReLU(),
        layer_init(nn.Linear(4 * width, width)),
    )


class AttentionCore(Core):
    """A stack of layers with attention over a window of the last steps.

    State: each layer's keys and values of the last M steps, (B, L, M, 2 H), and which of those
    belong to the episode, (B, M) bool.

    Args:
        input_size: width of what comes in.
        hidden_size: width H of every layer, a multiple of `num_heads`.
        make_layer: returns a layer of H, A and M.
        num_layers: L; the last layer sees L * M steps back through those below it.
        num_heads: A, parts of the width that attend separately; by default each is 32 wide.
        memory: M, the steps before this one that each layer sees.
    """

    keys: ClassVar[tuple[str, str]]
    """Names of the state's two parts."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        make_layer: Callable[[int, int, int], AttentionLayer],
        *,
        num_layers: int,
        num_heads: int | None,
        memory: int,
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.num_layers = require_count("num_layers", num_layers, most=MAX_LAYERS)
        self.memory = memory = require_count("memory", memory)
        heads = require_heads(hidden_size, num_heads)
        self.embed = layer_init(nn.Linear(input_size, hidden_size), 1.0)
        self.layers = nn.ModuleList(
            make_layer(hidden_size, heads, memory) for _ in range(num_layers)
        )

    def state_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """Return (B, L, M, 2 H) and (B, M)."""
        memory, valid = self.keys
        return {
            memory: (batch_size, self.num_layers, self.memory, 2 * self.hidden_size),
            valid: (batch_size, self.memory),
        }

    def initial_state(
        self, batch_size: int, device: torch.device | str | None = None
    ) -> dict[str, Tensor]:
        """Return an empty memory: nothing in it is valid."""
        state, valid = super().initial_state(batch_size, device), self.keys[1]
        return {**state, valid: state[valid].to(torch.bool)}

    def step(self, x: Tensor, state: State) -> After:
        """(B, I) -> (B, H), with the state after it."""
        hidden, after = self.sequence(x.unsqueeze(1), state, None)
        return hidden.squeeze(1), after

    def sequence(self, x: Tensor, state: State, episode_start: Tensor | None) -> After:
        """(B, T, I) -> (B, T, H): one pass, with a mask that keeps episodes apart."""
        batch, time, _ = x.shape
        memory_key, valid_key = self.keys
        episode = _episodes(state[valid_key], episode_start, time)  # (B, M + T)
        distances = _distances(time, self.memory, x.device)  # (T, M + T)
        window = (distances >= 0) & (distances <= self.memory)
        own = episode[:, self.memory :].unsqueeze(-1)  # (B, T, 1)
        allowed = window & (episode.unsqueeze(1) == own)  # (B, T, M + T)
        hidden, memories = self.embed(x), []
        # Pairs out of the window are masked; their distances only have to be valid indices.
        clamped = distances.clamp(0, self.memory)
        for layer, past in zip(self.layers, state[memory_key].unbind(1), strict=True):
            hidden, last = layer(hidden, past, allowed, clamped)
            memories.append(last)
        valid = episode[:, time:] == episode[:, -1:]  # (B, M)
        # Filled with zeros, so that nothing of an episode that is over can reach a later one.
        memory = torch.stack(memories, 1).masked_fill_(~valid.reshape(batch, 1, -1, 1), 0.0)
        return hidden, {memory_key: memory, valid_key: valid}


def _episodes(valid: Tensor, episode_start: Tensor | None, time: int) -> Tensor:
    """Number the episodes of what a sequence may look at, (B, M + T); -1 where nothing is."""
    past = valid.long() - 1  # 0 or -1
    if episode_start is None:
        return torch.cat([past, past.new_zeros(valid.shape[0], time)], 1)
    return torch.cat([past, episode_start.long().cumsum(1)], 1)


def _distances(time: int, memory: int, device: torch.device) -> Tensor:
    """Return how far back each step of the context lies from each of the sequence, (T, M + T)."""
    steps = torch.arange(memory, memory + time, device=device)
    return steps.unsqueeze(1) - torch.arange(memory + time, device=device)


def _waves(count: int, width: int) -> Tensor:
    """Return sines and cosines of the distances 0..count - 1, (count, H), as Transformer-XL."""
    rates = 10_000.0 ** (-torch.arange(0, width, 2) / width)
    angles = torch.arange(count).unsqueeze(1) * rates  # (count, H/2)
    return torch.cat([angles.sin(), angles.cos()], -1)[:, :width]
