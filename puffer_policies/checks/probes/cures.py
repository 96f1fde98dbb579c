"""What to do about an exception that a pass of a policy raised, by what its text says."""

from __future__ import annotations

import re

CURES = (
    (
        r"index out of range in self|num_classes",
        "Read the number of codes from the space. Where the space has room for more codes than the "
        'env sends, check it with the env, or declare conformance = {"codes": their number}.',
    ),
    (
        r"argument '\w+' is missing|missing \d+ required",
        "Give every argument but the env a default, or give the built policy instead: a function "
        "that returns it, as file.py::factory.",
    ),
    (
        r"'(Spaces|_EnvView)' object has no attribute|PufferLib is not installed",
        "It reads more of its env than the spaces: give the env itself, in Python, or a function "
        "that builds the policy with it, as file.py::factory.",
    ),
    (
        r"Given groups=|input to conv|Calculated padded input size|max_pool|avg_pool",
        "Bring images into the form of a convolution first, (N, C, H, W): permute those whose "
        "channels come last, and merge batch and time of a sequence. "
        "puffer_policies.nn.images.ImageInput does both.",
    ),
    (
        r"dtype|scalar type|\bByte\b|\bDouble\b|unsigned char|Tensor for argument .*indices",
        "Observations come in the dtype of their space: call float() on them before the first "
        "layer, or long() before an embedding.",
    ),
    (
        r"cannot be multiplied|size mismatch|must match the size|normalized_shape|"
        r"input\.size\(-1\) must be|expected input with shape",
        "Give the layer the width that it was built for: flatten each observation, merge batch "
        "and time of a sequence, and read the width from the space.",
    ),
    (
        r"view size is not compatible",
        "Call reshape() instead of view(): observations may have any strides.",
    ),
    (
        r"is invalid for input of size",
        "Leave the number of rows to -1 and read all other sizes from the space: batches have any "
        "size, and a sequence is (B, T, *obs).",
    ),
    (
        r"hidden\[0\]|hidden size|hx should|For (un)?batched .* hx",
        "Give the recurrent layer batch_first=True and a state of (layers, B, H).",
    ),
    (
        r"NoneType|^KeyError",
        "Expect a state that is None or lacks keys, and begin from zeros then.",
    ),
    (
        r"allocate memory|MemoryError",
        "Find what grows: a pass over a few small observations asked for more than 6 GB.",
    ),
    (r"^SystemExit", "Raise an error instead: sys.exit ends a training run without a word."),
)
"""Patterns of ``TypeError: text`` -> the cure, in sentences."""

OTHERWISE = "Mend this line. What rests on it can't be judged before."


def cure_of(error: BaseException, *, otherwise: str = OTHERWISE) -> str:
    """Return what to do about an exception, in sentences; `otherwise` if its text says nothing."""
    text = f"{type(error).__name__}: {error}"
    return next((cure for pattern, cure in CURES if re.search(pattern, text)), otherwise)
