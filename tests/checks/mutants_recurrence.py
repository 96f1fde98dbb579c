"""Memories with one defect each: a plain one and one in another author's style, for R1 to R12."""

from __future__ import annotations

from mutant import Mutant
from mutants_state import (
    AttendsAcrossEpisodes,
    CoolingPolicy,
    DecodesEncoder,
    DetachedEveryStep,
    GrowingCache,
    KeepsGraph,
    LastWindowOnly,
    LayersFirst,
    MemoryOnSelf,
    MovingStatistics,
    NeverExpires,
    ReadsByPosition,
    ResetsEveryKey,
    ReshapedLayers,
    RolledRows,
    SortsByLength,
)
from mutants_steps import (
    CutsLongSequences,
    ForgetsStoredState,
    KeepsCell,
    PufferGRU,
    ResetsAfterTheStep,
    ResetsEveryRow,
    ResidualInTrainingOnly,
    SequenceNeverResets,
    SequenceResetsAllRows,
    ShiftedStarts,
    WritesIntoState,
    guides_wrapper,
)

NEVER_RESETS = "a memory that is never reset leaks in both paths"
RATIO = "outputs that can't be reproduced give other log-probabilities"

MUTANTS_RECURRENCE: tuple[Mutant, ...] = (
    Mutant(
        "R1",
        "ResidualInTrainingOnly",
        ResidualInTrainingOnly,
        also=dict.fromkeys(("R2", "R5", "R11"), "the paths differ with resets, too"),
    ),
    Mutant(
        "R1",
        "PufferGRU",
        PufferGRU,
        also=dict.fromkeys(("R2", "R5", "R11", "N7"), "what is learnt in one path is not in both"),
        note="PufferLib 4.0",
    ),
    Mutant("R1", "CutsLongSequences", CutsLongSequences),
    Mutant(
        "R2",
        "SequenceNeverResets",
        SequenceNeverResets,
        also={"R8": "forward sees the last episode", "R11": RATIO},
    ),
    Mutant("R2", "SequenceResetsAllRows", SequenceResetsAllRows, also={"R11": RATIO}),
    Mutant("R3", "KeepsCell", KeepsCell, also={"R8": NEVER_RESETS}),
    Mutant("R3", "ResetsEveryRow", ResetsEveryRow),
    Mutant(
        "R3",
        "GuidesWrapper",
        guides_wrapper,
        also={"R8": NEVER_RESETS, "P5": "its cell holds the tensors of its lstm"},
        note="PufferLib 3.0's guide",
    ),
    Mutant("R4", "ResetsAfterTheStep", ResetsAfterTheStep),
    Mutant(
        "R4",
        "ShiftedStarts",
        ShiftedStarts,
        also={"R2": "only forward is early", "R8": "the step before is kept", "R11": RATIO},
    ),
    Mutant("R5", "ForgetsStoredState", ForgetsStoredState, also={"R11": RATIO}),
    Mutant("R5", "WritesIntoState", WritesIntoState, also={"S7": "a state is an input"}),
    Mutant("R6", "GrowingCache", GrowingCache, also={"P7": "a graph has one size of state"}),
    Mutant(
        "R6",
        "MemoryOnSelf",
        MemoryOnSelf,
        also=dict.fromkeys(("P2", "P7", "P8", "S3", "S5", "S6", "S7"), "no call can be repeated"),
    ),
    Mutant("R6", "KeepsGraph", KeepsGraph),
    Mutant("R7", "DecodesEncoder", DecodesEncoder, also={"N6": "nothing reads the cell"}),
    Mutant("R7", "DetachedEveryStep", DetachedEveryStep),
    Mutant(
        "R8",
        "AttendsAcrossEpisodes",
        AttendsAcrossEpisodes,
        also={"R2": "acting and training differ", "R11": RATIO},
    ),
    Mutant("R8", "NeverExpires", NeverExpires, also={"R3": NEVER_RESETS}),
    Mutant("R9", "ReshapedLayers", ReshapedLayers),
    Mutant("R9", "LayersFirst", LayersFirst, also={"R6": "its rows are not first"}),
    Mutant("R9", "RolledRows", RolledRows),
    Mutant(
        "R10",
        "LastWindowOnly",
        LastWindowOnly,
        also={"R1": "steps have no window, which a long sequence shows"},
    ),
    Mutant("R10", "SortsByLength", SortsByLength),
    Mutant(
        "R11",
        "MovingStatistics",
        MovingStatistics,
        also={"P1": "it moves in train mode only", "S5": "by the mean of all rows"},
    ),
    Mutant(
        "R11",
        "CoolingPolicy",
        CoolingPolicy,
        also={"P1": "it cools in train mode only", "S5": "no call can be repeated"},
    ),
    Mutant("R12", "ReadsByPosition", ReadsByPosition),
    Mutant("R12", "ResetsEveryKey", ResetsEveryKey),
)
