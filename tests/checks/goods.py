"""Every correct policy with the spaces that it is tried on: no check may find fault with one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from good import (
    CONTINUOUS,
    DICT,
    DISCRETE,
    FOUR,
    IMAGE,
    IMAGE_HWC,
    MATRIX,
    SEVERAL,
    GoodLSTM,
    GoodMLP,
)
from good_memory import AgeingMemory, GRUMemory
from good_styles import (
    BranchingHeads,
    ConvPolicy,
    DropoutPolicy,
    EmbeddingPolicy,
    ForwardingPolicy,
    KeyedPolicy,
    KwargsPolicy,
    MyModulePolicy,
    NestedPolicy,
    NormalisedPolicy,
    SB3Names,
    ScriptedPolicy,
    SeparateCritic,
    SpectralPolicy,
    StateStd,
)
from gymnasium import spaces as gym
from mutant import subject_of
from torch import nn

from puffer_policies.checks.probes.subject import Subject
from puffer_policies.spaces import Spaces


@dataclass(frozen=True)
class Good:
    """A correct policy class on one pair of spaces; it can be built as ``cls(spaces)``."""

    cls: type[nn.Module]
    spaces: Spaces
    declared: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        kinds = (type(each).__name__ for each in (self.spaces.observation, self.spaces.action))
        return f"{self.cls.__name__}-{'-'.join(kinds)}"

    def subject(self) -> Subject:
        return subject_of(self.cls, self.spaces, declared=self.declared)


DECLARED: dict[type[nn.Module], dict[str, Any]] = {
    DropoutPolicy: {"train_differs": "it drops out while training"},
    SpectralPolicy: {"train_differs": "its estimate moves while training"},
}
"""What a correct policy has to declare, by class."""

PAIRS: tuple[tuple[type[nn.Module], Spaces], ...] = (
    *((GoodMLP, each) for each in (DISCRETE, SEVERAL, CONTINUOUS, IMAGE, IMAGE_HWC, DICT)),
    (GoodMLP, Spaces(MATRIX, gym.MultiBinary(3))),
    (GoodMLP, Spaces(gym.MultiDiscrete([3, 2]), gym.Discrete(3, start=2))),
    (GoodMLP, Spaces(gym.Tuple((gym.Discrete(2), MATRIX)), gym.Box(-1.0, 1.0, (2, 3)))),
    (GoodMLP, Spaces(gym.Box(-1.0, 1.0, (3,), "float64"), gym.Box(-1.0, 1.0, ()))),
    *((GoodLSTM, each) for each in (DISCRETE, SEVERAL, CONTINUOUS, IMAGE, DICT)),
    *((GRUMemory, each) for each in (DISCRETE, SEVERAL, CONTINUOUS)),
    (AgeingMemory, DISCRETE),
    (NestedPolicy, DISCRETE),
    (KwargsPolicy, SEVERAL),
    (ForwardingPolicy, DISCRETE),
    (ScriptedPolicy, DISCRETE),
    (MyModulePolicy, CONTINUOUS),
    (SeparateCritic, DISCRETE),
    (SB3Names, DISCRETE),
    (EmbeddingPolicy, Spaces(gym.Discrete(6, start=-1), FOUR)),
    (ConvPolicy, IMAGE),
    (ConvPolicy, IMAGE_HWC),
    (KeyedPolicy, DICT),
    (StateStd, CONTINUOUS),
    (BranchingHeads, SEVERAL),
    (DropoutPolicy, DISCRETE),
    (NormalisedPolicy, DISCRETE),
    (SpectralPolicy, DISCRETE),
)

GOOD = tuple(Good(cls, spaces, DECLARED.get(cls, {})) for cls, spaces in PAIRS)
