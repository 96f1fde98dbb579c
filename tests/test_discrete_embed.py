"""`DiscreteEmbed` looks up a vector for each choice, and none for an option that does not exist."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from specimens import FOUR, OBSERVATIONS, PIXELS, VECTOR, observation_batch, samples
from torch import Tensor

from puffer_policies import Spaces, get_policy
from puffer_policies.assembly.fit import fits
from puffer_policies.errors import BuildError, IncompatibleSpace
from puffer_policies.nn.features import make_features
from puffer_policies.nn.multi_input import ChoiceEmbedding, EmbeddingEncoder
from puffer_policies.registry import discover
from puffer_policies.wrappers.memory import LSTMWrapper
from puffer_policies.zoo.inputs import DiscreteEmbed

CHOICES = {
    name: OBSERVATIONS[name]
    for name in (
        "discrete",
        "discrete_start",
        "multidiscrete",
        "multidiscrete_2d",
        "multibinary",
        "multibinary_2d",
    )
} | {"started": spaces.MultiDiscrete([3, 2], start=[-1, 7])}
every_space = pytest.mark.parametrize("name", sorted(CHOICES))


def options(space: Any) -> list[tuple[int, int]]:
    """The first option and the number of options of each choice, read from the space by hand."""
    if isinstance(space, spaces.Discrete):
        return [(int(space.start), int(space.n))]
    if isinstance(space, spaces.MultiBinary):
        return [(0, 2)] * int(np.prod(space.shape))
    pairs = zip(space.start.reshape(-1), space.nvec.reshape(-1), strict=True)
    return [(int(start), int(n)) for start, n in pairs]


def looked_up(space: Any, member: Any, table: Tensor) -> list[Tensor]:
    """The vector of each choice of one observation, found row by row."""
    found, before = [], 0
    for value, (start, n) in zip(np.asarray(member).reshape(-1), options(space), strict=True):
        found.append(table[before + int(value) - start])
        before += n
    assert before == len(table)
    return found


@every_space
def test_every_choice_has_the_vector_of_its_option(name: str) -> None:
    space = CHOICES[name]
    embedding = ChoiceEmbedding(space, 5)
    table = embedding.embedding.weight.detach()
    found = embedding(observation_batch(space, 20))
    assert found.shape == (20, len(options(space)), 5)
    for row, member in zip(found, samples(space, 20), strict=True):
        torch.testing.assert_close(
            row, torch.stack(looked_up(space, member, table)), rtol=0, atol=0
        )


@every_space
@pytest.mark.parametrize("combine", ["concat", "sum"])
def test_vectors_are_combined_and_go_through_one_layer(name: str, combine: Any) -> None:
    space = CHOICES[name]
    encoder = EmbeddingEncoder(space, 6, embedding_size=5, combine=combine)
    table, linear = encoder.embedding.embedding.weight.detach(), encoder.linear
    assert linear.in_features == (5 if combine == "sum" else 5 * len(options(space)))
    with torch.no_grad():
        found = encoder(observation_batch(space, 7))
        for row, member in zip(found, samples(space, 7), strict=True):
            vectors = looked_up(space, member, table)
            seen = sum(vectors) if combine == "sum" else torch.cat(vectors)
            expected = (linear.weight @ seen + linear.bias).clamp(min=0)
            torch.testing.assert_close(row, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(set(CHOICES) - {"multibinary", "multibinary_2d"}))
def test_a_layer_on_one_hot_codes_is_the_sum_of_vectors(name: str) -> None:
    space = CHOICES[name]
    embedding = ChoiceEmbedding(space, 5)
    x = observation_batch(space, 9)
    expected = make_features(space)(x) @ embedding.embedding.weight
    torch.testing.assert_close(embedding(x).sum(1), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("value", [-3, -1, 5, 100])
def test_an_option_outside_the_space_is_zeros_and_never_anothers_vector(value: int) -> None:
    space = spaces.MultiDiscrete([5, 5, 5])
    found = ChoiceEmbedding(space, 4)(torch.tensor([[1, value, 1]]))
    assert found[0, [0, 2]].any(-1).all()
    assert not found[0, 1].any()


@every_space
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64, torch.int8])
def test_observations_of_any_dtype_give_the_same_float32(name: str, dtype: torch.dtype) -> None:
    policy = DiscreteEmbed(Spaces(CHOICES[name], FOUR), hidden_size=8)
    x = observation_batch(CHOICES[name], 5)
    with torch.no_grad():
        (logits, values), expected = policy(x.to(dtype)), policy(x)
    assert logits.dtype == values.dtype == torch.float32
    torch.testing.assert_close((logits, values), expected, atol=0, rtol=0)


@every_space
def test_it_serves_alone_and_with_memory(name: str) -> None:
    env = Spaces(CHOICES[name], FOUR)
    policy = DiscreteEmbed(env, hidden_size=8)
    x = observation_batch(env.observation, 2, 3)
    with torch.no_grad():
        logits, values = policy(x)
        assert (logits.shape, values.shape) == ((6, 4), (6, 1))
        logits, values = LSTMWrapper(env, policy)(x)
        assert (logits.shape, values.shape) == ((6, 4), (2, 3))


def test_many_options_have_vectors_of_full_length() -> None:
    torch.manual_seed(0)
    space = spaces.Discrete(500)
    one = EmbeddingEncoder(space, 8).embedding.embedding.weight.detach()
    several = EmbeddingEncoder(spaces.MultiDiscrete([9] * 25), 8, combine="sum")
    assert float(one.std()) == pytest.approx(1, abs=0.05)
    summed = several.embedding(torch.randint(9, (2000, 25))).sum(1).detach()
    assert float(summed.std()) == pytest.approx(1, abs=0.2)


def test_the_size_of_taxi() -> None:
    policy = DiscreteEmbed(Spaces(spaces.Discrete(500), spaces.Discrete(6)))
    size = sum(each.numel() for each in policy.parameters())
    assert size == 500 * 32 + (32 + 1) * 128 + (128 + 1) * 7


def test_the_first_policy_is_nearly_uniform() -> None:
    torch.manual_seed(0)
    space = CHOICES["multidiscrete"]
    logits, _ = DiscreteEmbed(Spaces(space, FOUR))(observation_batch(space, 8))
    torch.testing.assert_close(logits.softmax(-1), torch.full((8, 4), 0.25), atol=0.05, rtol=0)


@pytest.mark.parametrize("space", [VECTOR, PIXELS, OBSERVATIONS["dict"]])
def test_other_spaces_are_refused_by_name_and_by_class(space: Any) -> None:
    env = Spaces(space, FOUR)
    with pytest.raises(IncompatibleSpace, match="'MultiInput' fits"):
        DiscreteEmbed(env)
    with pytest.raises(IncompatibleSpace, match="multibinary"):
        get_policy("DiscreteEmbed", env)
    registry = discover(plugins=[], environ={"PUFFER_POLICIES_REGISTRY": ""})
    (judged,) = (fit for fit in fits(env, registry=registry) if fit.name == "DiscreteEmbed")
    assert "discrete or multidiscrete or multibinary" in judged.reasons[0]


def test_real_numbers_are_no_choices() -> None:
    with pytest.raises(IncompatibleSpace, match="no choices to embed"):
        ChoiceEmbedding(VECTOR, 4)


def test_an_unknown_way_to_combine_names_the_nearest() -> None:
    with pytest.raises(BuildError, match="'concat'"):
        DiscreteEmbed(Spaces(FOUR, FOUR), combine="concatt")  # type: ignore[arg-type]
