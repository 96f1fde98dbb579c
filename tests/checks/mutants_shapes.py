"""Policies that break one promise of shapes each: plainly, and in another author's style."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from good import (
    CONTINUOUS,
    DICT,
    FOUR,
    IMAGE,
    IMAGE_HWC,
    MATRIX,
    SEVERAL,
    GoodLSTM,
    GoodMLP,
    flat,
    layer,
)
from good_policies import ConvPolicy, KeyedPolicy
from gymnasium import spaces as gym
from mutant import Mutant
from torch import Tensor, nn
from torch.distributions import Normal

from puffer_policies.registry.records import Capabilities
from puffer_policies.spaces import Spaces

# -- S9 --------------------------------------------------------------------------------------------


class Unscaled(ConvPolicy):
    """Pixels of 0..255 enter the convolution."""

    def features(self, observations: Any) -> Tensor:
        pixels = observations.movedim(-1, 1) if self.last else observations
        return self.conv(pixels.float())


class GuessesBytesOfEach(ConvPolicy):
    """Divides an image by 255 where a pixel of it is larger than 1."""

    def features(self, observations: Any) -> Tensor:
        pixels = (observations.movedim(-1, 1) if self.last else observations).float()
        is_bytes = pixels.amax((1, 2, 3), keepdim=True) > 1
        return self.conv(torch.where(is_bytes, pixels / 255, pixels))


class ScaledTwice(ConvPolicy):
    """By the features, and by the encoder of another author."""

    def features(self, observations: Any) -> Tensor:
        return super().features(observations / 255.0)


class Reshapes(ConvPolicy):
    """reshape where permute was meant: the sizes are right, the colors mixed."""

    def features(self, observations: Any) -> Tensor:
        height, width, channels = self.spaces.observation.shape
        pixels = observations.reshape(-1, channels, height, width)
        return self.conv(pixels.float() / 255.0)


class HeightAsChannels(ConvPolicy):
    """(h, w, C) fed to a convolution as it is."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.conv[0] = layer(nn.Conv2d(self.spaces.observation.shape[0], 8, 3, padding=1))

    def features(self, observations: Any) -> Tensor:
        return self.conv(observations.float() / 255.0)


class TinyImages(ConvPolicy):
    """Built for any size, and fails inside a convolution."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.conv[2] = layer(nn.Conv2d(8, 8, 4))


class HeightForWidth(ConvPolicy):
    """permute(0, 3, 2, 1): the pool hides that height and width change places."""

    def features(self, observations: Any) -> Tensor:
        pixels = observations.permute(0, 3, 2, 1)
        return self.conv(pixels.to(self.critic.weight.dtype) / 255)


class ReshapesBehindANorm(ConvPolicy):
    """A norm over all pixels first, then a reshape of the channels, which lie last."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.norm = nn.LayerNorm(list(self.spaces.observation.shape))

    def features(self, observations: Any) -> Tensor:
        height, width, channels = self.spaces.observation.shape
        pixels = self.norm(observations.to(self.critic.weight.dtype) / 255)
        return self.conv(pixels.reshape(-1, channels, height, width))


class PlanesReshaped(ConvPolicy):
    """Real numbers (h, w, C), such as planes of features, are reshaped to (C, h, w)."""

    def features(self, observations: Any) -> Tensor:
        height, width, channels = self.spaces.observation.shape
        planes = observations.reshape(-1, channels, height, width)
        return self.conv(planes.to(self.critic.weight.dtype))


class CentersBytes(ConvPolicy):
    """Takes 128 off the bytes before the cast: black becomes bright."""

    def features(self, observations: Any) -> Tensor:
        pixels = observations.movedim(-1, 1) if self.last else observations
        return self.conv((pixels - 128).to(self.critic.weight.dtype) / 128)


class DifferenceOfFrames(ConvPolicy):
    """What moved, as the difference of two frames of bytes, beside the frames themselves."""

    def features(self, observations: Any) -> Tensor:
        moved = observations - observations.roll(1, 1)
        pixels = torch.cat([observations, moved]).to(self.critic.weight.dtype) / 255
        now, before = self.conv(pixels).chunk(2)
        return now + before


# -- S10 -------------------------------------------------------------------------------------------


class InsertionOrder(KeyedPolicy):
    """Concatenates in the order of the observation at hand."""

    def features(self, observations: Any) -> Tensor:
        members = self.spaces.observation.spaces
        parts = [self.by_key[key](flat(members[key], each)) for key, each in observations.items()]
        return torch.relu(torch.cat(parts, -1))


class SpaceOrder(KeyedPolicy):
    """Concatenates in the order of the space that it was built for."""

    def features(self, observations: Any) -> Tensor:
        members = self.spaces.observation.spaces
        parts = [self.by_key[key](flat(members[key], observations[key])) for key in members]
        return torch.relu(torch.cat(parts, -1))


UNIT_IMAGE = Spaces(gym.Box(0.0, 1.0, (12, 14, 3), np.float32), FOUR)

MUTANTS_IMAGES = (
    Mutant("S9", "unscaled", Unscaled, IMAGE),
    Mutant("S9", "scaled-twice", ScaledTwice, IMAGE_HWC),
    Mutant("S9", "guesses-bytes-of-each", GuessesBytesOfEach, IMAGE),
    Mutant("S9", "reshapes", Reshapes, IMAGE_HWC),
    Mutant("S9", "height-as-channels", HeightAsChannels, IMAGE_HWC),
    Mutant("S9", "tiny-images", TinyImages, IMAGE, capabilities=Capabilities()),
    Mutant("S9", "height-for-width", HeightForWidth, IMAGE_HWC),
    Mutant("S9", "reshapes-behind-a-norm", ReshapesBehindANorm, IMAGE_HWC),
    Mutant("S6", "centers-bytes", CentersBytes, IMAGE_HWC),
    Mutant("S9", "unit-image-over-255", ConvPolicy, UNIT_IMAGE),
    Mutant("S9", "planes-reshaped", PlanesReshaped, UNIT_IMAGE),
    Mutant("S6", "difference-of-frames", DifferenceOfFrames, IMAGE),
    Mutant("S10", "insertion-order", InsertionOrder, DICT),
    Mutant("S10", "space-order", SpaceOrder, DICT),
)


# -- S1 --------------------------------------------------------------------------------------------


class FlatValues(GoodMLP):
    """squeeze(-1), as many losses expect."""

    def value(self, hidden: Tensor) -> Tensor:
        return super().value(hidden).squeeze(-1)


class ValuesOfNRows(GoodLSTM):
    """A memory whose sequence gives values (B*T, 1), as its heads made them."""

    def forward(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        logits, values = super().forward(observations, state)
        return logits, values.reshape(-1, 1)


# -- S2 --------------------------------------------------------------------------------------------


class UnmergedLogits(GoodLSTM):
    """Logits of a sequence stay (B, T, n)."""

    def forward(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        logits, values = super().forward(observations, state)
        return logits.reshape(*values.shape, -1), values


class UnmergedNormal(GoodMLP):
    """A Normal whose loc keeps an axis of time."""

    def forward(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        logits, values = super().forward(observations, state)
        rows = observations.shape[:-1]
        if len(rows) == 1:
            return logits, values
        loc, scale = (each.reshape(*rows, -1) for each in (logits.loc, logits.scale))
        return Normal(loc, scale), values


# -- S3 --------------------------------------------------------------------------------------------


class Squeezes(GoodMLP):
    """squeeze() without an axis: a batch of one loses its batch."""

    def logits(self, hidden: Tensor) -> Any:
        return super().logits(hidden).squeeze()


class ScalesWithBatch(GoodMLP):
    """A sum over the batch where the number of rows was meant to be constant."""

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        hidden = super().encode_observations(observations, state)
        return hidden / len(hidden)


class GuessesBytes(ConvPolicy):
    """Divides by 255 where a pixel of the batch is larger than 1."""

    def features(self, observations: Any) -> Tensor:
        pixels = (observations.movedim(-1, 1) if self.last else observations).float()
        return self.conv(torch.where(pixels.max() > 1, pixels / 255, pixels))


class NormInTrainingOnly(GoodMLP):
    """forward runs a norm that forward_eval forgot."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.norm = nn.LayerNorm(16)

    def forward(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        return self.decode_actions(self.norm(self.encode_observations(observations.flatten(0, -2))))


class ClipsOnePath(nn.Module):
    """A wrapper that clips what the rollout sees, and nothing else."""

    def __init__(self, env: Any) -> None:
        super().__init__()
        self.inner = GoodMLP(env)
        self.hidden_size, self.is_continuous = 16, self.inner.is_continuous

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        return self.inner.encode_observations(observations, state=state)

    def decode_actions(self, hidden: Tensor) -> tuple[Any, Tensor]:
        return self.inner.decode_actions(hidden)

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        return self.inner.forward_eval(observations.clamp(-5.0, 5.0), state)

    def forward(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        return self.inner(observations, state)


# -- S4 --------------------------------------------------------------------------------------------


class TimeFirst(GoodLSTM):
    """The heads run on (T, B, H), as nn.LSTM without batch_first returns it."""

    def run(self, hidden: Tensor, h: Tensor, c: Tensor, starts: Any) -> Any:
        h, c, outputs = super().run(hidden, h, c, starts)
        return h, c, outputs.transpose(0, 1).reshape(outputs.shape)


class TransposedMerge(GoodMLP):
    """swapaxes before the merge, and never back."""

    def forward(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        if observations.ndim == 3:
            observations = observations.swapaxes(0, 1).flatten(0, 1)
        return self.forward_eval(observations, state)


# -- S5 --------------------------------------------------------------------------------------------


class BatchAsTime(GoodMLP):
    """A recurrent layer without batch axis reads the batch as a sequence."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.rnn = nn.RNN(16, 16)

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        hidden, _ = self.rnn(super().encode_observations(observations, state))
        return hidden


class RunningSum(GoodMLP):
    """cumsum over axis 0, meant for features."""

    def features(self, observations: Any) -> Tensor:
        features = super().features(observations)
        return features + 0.1 * features.cumsum(0)


class BatchNormed(GoodMLP):
    """Batch statistics while training (DLR-RM/stable-baselines3#535), undeclared."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.norm = nn.BatchNorm1d(16)

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        hidden = super().encode_observations(observations, state)
        return self.norm(hidden) if len(hidden) > 1 or not self.training else hidden


class NumberedRows(GoodMLP):
    """Adds a vector of positions along the first axis, which is the batch."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.register_buffer("positions", torch.linspace(-1, 1, 64).unsqueeze(1))

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        hidden = super().encode_observations(observations, state)
        place = torch.arange(len(hidden), device=hidden.device) % 64
        return hidden + 0.1 * self.positions[place]


class TwoTeams(GoodMLP):
    """Every second env is of the other team: it sees its numbers with the other sign."""

    def features(self, observations: Any) -> Tensor:
        features = super().features(observations)
        side = 1 - 2 * (torch.arange(len(features), device=features.device) % 2)
        return features * side.unsqueeze(-1)


class ChunksWithoutTheRest(GoodMLP):
    """Runs large batches in pieces, and leaves out the last, shorter one."""

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        encode, size = super().encode_observations, 512
        if len(observations) <= size:
            return encode(observations, state)
        hidden = torch.zeros(len(observations), self.hidden_size)
        for first in range(0, len(observations) - size + 1, size):
            hidden[first : first + size] = encode(observations[first : first + size], state)
        return hidden


class BufferForMany(GoodMLP):
    """Writes what it encodes into rows of a buffer, whose last one is used again and again."""

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        hidden = super().encode_observations(observations, state)
        return hidden[torch.arange(len(hidden)).clamp(max=1023)]


# -- S6 --------------------------------------------------------------------------------------------


class SpeedsInBytes(GoodMLP):
    """The difference of two readings of a key, which are bytes."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.encoder = layer(nn.Linear(9, self.hidden_size))

    def features(self, observations: Any) -> Tensor:
        ram = observations["ram"]
        numbers = torch.cat([ram, ram[:, 1:] - ram[:, :-1]], 1).to(self.critic.weight.dtype) / 255
        return torch.cat([numbers, observations["flag"].to(numbers.dtype)], 1)


class CountsTwice(GoodMLP):
    """Twice a count and one, as a small integer."""

    def features(self, observations: Any) -> Tensor:
        return super().features(observations * 2 + 1) / 100


class NoCast(GoodMLP):
    """Observations go into the layer as they come."""

    def encode_observations(self, observations: Any, state: Any = None) -> Tensor:
        return torch.tanh(self.encoder(observations))


class DoubleValues(GoodMLP):
    """A scale that NumPy made, float64."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.register_buffer("value_scale", torch.from_numpy(np.ones(1)))

    def value(self, hidden: Tensor) -> Tensor:
        return super().value(hidden) * self.value_scale


# -- S7 --------------------------------------------------------------------------------------------


class Views(GoodMLP):
    """view, which wants its input in one piece."""

    def features(self, observations: Any) -> Tensor:
        return observations.view(len(observations), 15).float()


class ClampsInPlace(GoodMLP):
    """Clips outliers in the caller's buffer."""

    def features(self, observations: Any) -> Tensor:
        return super().features(observations.clamp_(-0.5, 0.5))


class FillsOneBuffer(GoodMLP):
    """Steps return values in a buffer that the next step fills anew."""

    def forward_eval(self, observations: Any, state: Any = None) -> tuple[Any, Tensor]:
        logits, values = super().forward_eval(observations, state)
        if torch.is_grad_enabled():
            return logits, values
        buffers = self.__dict__.setdefault("buffers_by_rows", {})
        return logits, buffers.setdefault(len(values), torch.empty_like(values)).copy_(values)


class ActivatesInPlace(GoodMLP):
    """The heads write into the hidden features that were given to them."""

    def decode_actions(self, hidden: Tensor) -> tuple[Any, Tensor]:
        hidden.data.mul_(0.5)
        return super().decode_actions(hidden)


class PopsAKey(KeyedPolicy):
    """Takes what it needs out of the caller's dict."""

    def features(self, observations: Any) -> Tensor:
        where = observations.pop("where")
        return super().features({**observations, "where": where})


class UsesUpTheStart(GoodLSTM):
    """Marks the start of the episode as seen, in the caller's state."""

    def write(self, state: Any, h: Tensor, c: Tensor) -> None:
        super().write(state, h, c)
        if state is not None:
            state.pop("episode_start", None)


# -- S8 --------------------------------------------------------------------------------------------


class OneHeadForAll(GoodMLP):
    """PufferLib 3.0 for MultiBinary: one choice among n."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.actor = layer(nn.Linear(16, self.spaces.action.shape[0]), 0.01)


class UnsplitLogits(GoodMLP):
    """The logits of all choices in one tensor."""

    def logits(self, hidden: Tensor) -> Any:
        return torch.cat(super().logits(hidden), -1)


class FirstAxisActions(GoodMLP):
    """PufferLib 3.0 for Box(2, 3): shape[0] numbers."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.mean = layer(nn.Linear(16, self.spaces.action.shape[0]), 0.01)
        self.log_std = nn.Parameter(torch.zeros(self.spaces.action.shape[0]))
        self.actor = None

    def logits(self, hidden: Tensor) -> Any:
        mean = self.mean(hidden)
        return Normal(mean, self.log_std.clamp(-5, 2).exp().expand_as(mean), validate_args=False)


UNBOUNDED = Spaces(gym.Box(-np.inf, np.inf, (4,), np.float32), FOUR)
RAM = Spaces(gym.Dict({"ram": gym.Box(0, 255, (4,), np.uint8), "flag": gym.MultiBinary(2)}), FOUR)
COUNTS = Spaces(gym.Box(-100, 100, (4,), np.int8), FOUR)
FLAGS = Spaces(MATRIX, gym.MultiBinary(3))
TABLE = Spaces(MATRIX, gym.Box(-1.0, 1.0, (2, 3)))


def _overlap(codes: str, reason: str) -> dict[str, str]:
    return dict.fromkeys(codes.split(), reason)


FORM = "nothing can be computed from logits of a wrong form"
UNMERGED_LOGITS = _overlap("A5 N2 N6 N7 N8 P6 R5 R7 R11", FORM)
UNMERGED_NORMAL = _overlap("N6 N8 P6", FORM)
ONE_CHOICE = _overlap("A1 A3 A4 A5 N1 N5 N6 N7 N8", FORM)
FEW_NUMBERS = _overlap("A1 A2 A3 A6 N1 N6 N7 N8", FORM)
STEPS_DIFFER = _overlap(
    "R1 R2 R4 R5 R8 R9 R10 R11 S5", "rows of a sequence that change places differ from its steps"
)
MOVED_ROWS = _overlap("S3 S5", "a row comes out in another place, among other rows")
OTHER_PLACES = _overlap("S3", "a row has another place in a sequence than in its steps")
BRIGHTER = _overlap("S9", "a batch of images of shade 1 is brighter than one of shade 2")
LARGER = _overlap("S5", "it is another policy in a larger batch")
USED_UP = _overlap("B8 R6", "the second pass on the same observations raises")
TWO_MODES = _overlap("P1", "batch statistics make the modes differ")

MUTANTS_SHAPES = (
    Mutant("S1", "flat-values", FlatValues),
    Mutant("S1", "values-of-n-rows", ValuesOfNRows, SEVERAL),
    Mutant("S2", "unmerged-logits", UnmergedLogits, also=UNMERGED_LOGITS),
    Mutant("S2", "unmerged-normal", UnmergedNormal, CONTINUOUS, also=UNMERGED_NORMAL),
    Mutant("S3", "squeezes", Squeezes),
    Mutant("S3", "scales-with-batch", ScalesWithBatch, also=LARGER),
    Mutant("S3", "norm-in-training-only", NormInTrainingOnly),
    Mutant("S3", "guesses-bytes", GuessesBytes, IMAGE, also=BRIGHTER),
    Mutant("S3", "clips-one-path", ClipsOnePath, UNBOUNDED),
    Mutant("S4", "time-first", TimeFirst, also=STEPS_DIFFER),
    Mutant("S4", "transposed-merge", TransposedMerge, CONTINUOUS, also=MOVED_ROWS),
    Mutant("S5", "batch-as-time", BatchAsTime, also=OTHER_PLACES),
    Mutant("S5", "running-sum", RunningSum, also=OTHER_PLACES),
    Mutant("S5", "batch-normed", BatchNormed, also=TWO_MODES, note="DLR-RM/stable-baselines3#535"),
    Mutant("S5", "numbered-rows", NumberedRows, also=OTHER_PLACES),
    Mutant("S5", "two-teams", TwoTeams, also=OTHER_PLACES),
    Mutant("S5", "chunks-without-the-rest", ChunksWithoutTheRest),
    Mutant("S5", "buffer-for-many", BufferForMany),
    Mutant("S6", "no-cast", NoCast),
    Mutant("S6", "double-values", DoubleValues),
    Mutant("S6", "speeds-in-bytes", SpeedsInBytes, RAM),
    Mutant("S6", "counts-twice", CountsTwice, COUNTS),
    Mutant("S7", "views", Views, Spaces(MATRIX, FOUR)),
    Mutant("S7", "clamps-in-place", ClampsInPlace),
    Mutant("S7", "fills-one-buffer", FillsOneBuffer),
    Mutant("S7", "activates-in-place", ActivatesInPlace),
    Mutant("S7", "pops-a-key", PopsAKey, DICT, also=USED_UP),
    Mutant("S7", "uses-up-the-start", UsesUpTheStart),
    Mutant(
        "S8",
        "one-head-for-all",
        OneHeadForAll,
        FLAGS,
        also=ONE_CHOICE,
        note="PufferLib 3.0, MultiBinary",
    ),
    Mutant("S8", "unsplit-logits", UnsplitLogits, SEVERAL, also=ONE_CHOICE),
    Mutant(
        "S8",
        "first-axis-actions",
        FirstAxisActions,
        TABLE,
        also=FEW_NUMBERS,
        note="PufferLib 3.0, Box(2, 3)",
    ),
    *MUTANTS_IMAGES,
)
