"""Sets of entities: no order and no padding changes an answer, and each formula is its paper's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from specimens import ACTIONS, FOUR, OBSERVATIONS, VECTOR, map_tensors, observation_batch
from specimens import tensors_of as parts_of
from torch import Tensor, nn

from puffer_policies import Spaces, get_policy
from puffer_policies.assembly.fit import fits
from puffer_policies.errors import BuildError, IncompatibleSpace
from puffer_policies.nn.sets import AttentionBlock, AttentionNetwork, pooled
from puffer_policies.registry import discover
from puffer_policies.spaces.entities import find_entities, observation_kinds
from puffer_policies.wrappers.memory import LSTMWrapper
from puffer_policies.zoo.sets import DeepSets, EntityAttention

POLICIES = {"DeepSets": DeepSets, "EntityAttention": EntityAttention}
ROWS = spaces.Box(-1.0, 1.0, (5, 10), np.float32)
MASKED = spaces.Dict({"entities": ROWS, "mask": spaces.MultiBinary(5)})
COMMON = spaces.Dict(
    {
        "mask": spaces.Box(0, 1, (5,), np.bool_),
        "where": VECTOR,
        "entities": ROWS,
        "about": spaces.Dict({"turn": spaces.Discrete(3), "past": spaces.MultiBinary(2)}),
    }
)
SETS = {"rows": ROWS, "masked": MASKED, "common": COMMON}
MASK = torch.tensor([[1, 0, 1, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]])

every_policy = pytest.mark.parametrize("name", sorted(POLICIES))
every_set = pytest.mark.parametrize("kind", sorted(SETS))


def built(name: str, space: Any = MASKED, **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    return POLICIES[name](Spaces(space, FOUR), **arguments)


def seen(mask: Tensor = MASK) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {"entities": torch.randn(*mask.shape, 10), "mask": mask.to(torch.int8)}


def parameters(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def answer(policy: nn.Module, observations: Any) -> Tensor:
    with torch.no_grad():
        return policy.encode_observations(observations)


# -- sizes and formulas ----------------------------------------------------------------------------


def test_the_published_sizes() -> None:
    assert parameters(built("DeepSets").encoder) == 9_024
    attention = built("EntityAttention").encoder
    assert parameters(attention.network.blocks) == 66_944
    rest = 11 * 64 + 2 * 64 + 65 * 128
    assert parameters(attention) == 66_944 + rest


def test_deep_sets_is_a_loop_over_entities() -> None:
    encoder = built("DeepSets", COMMON).encoder
    x = {**observation_batch(COMMON, 4), **seen()}
    network = encoder.network
    with torch.no_grad():
        found = encoder(x)
        for row in range(4):
            there = [x["entities"][row, e] for e in range(5) if MASK[row, e]]
            each = [network.second(network.first.linear(e).relu()).relu() for e in there]
            pool = torch.zeros(64)
            if each:
                pool = sum(each) / len(each) + torch.stack(each).max(0).values
            about = x["about"]
            turn = torch.eye(3)[about["turn"][row]]
            common = torch.cat([about["past"][row].float(), turn, x["where"][row]])
            expected = encoder.linear(torch.cat([pool, common])[None])[0].relu()
            torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-5)


def test_a_block_is_torchs_encoder_layer_with_norms_in_front() -> None:
    block = AttentionBlock(64, num_heads=4, feedforward=128)
    reference = nn.TransformerEncoderLayer(64, 4, 128, 0.0, batch_first=True, norm_first=True)
    copied = {
        reference.self_attn.in_proj_weight: block.query_key_value.weight,
        reference.self_attn.in_proj_bias: block.query_key_value.bias,
    }
    for other, mine in copied.items():
        other.data.copy_(mine.data.normal_(std=0.2))
    pairs = {
        reference.self_attn.out_proj: block.output,
        reference.linear1: block.network[0],
        reference.linear2: block.network[2],
        reference.norm1: block.attention_norm,
        reference.norm2: block.network_norm,
    }
    for other, mine in pairs.items():
        mine.bias.data.normal_(std=0.2)
        other.load_state_dict(mine.state_dict())
    x, there = torch.randn(3, 5, 64), MASK[:3].bool()
    found, expected = block(x, there), reference(x, src_key_padding_mask=~there)
    torch.testing.assert_close(found[there], expected[there], atol=1e-5, rtol=1e-4)


def test_entity_attention_is_a_layer_blocks_a_norm_and_a_pooling_of_those_that_are_there() -> None:
    encoder = built("EntityAttention", num_blocks=3).encoder
    x, network = seen(), encoder.network
    with torch.no_grad():
        found = encoder(x)
        for row in range(3):
            there = MASK[row].bool()
            alone = network.first.linear(x["entities"][row][there]).relu()[None]
            for block in network.blocks:
                alone = block(alone, torch.ones(1, int(there.sum()), dtype=torch.bool))
            normed = network.norm(alone)[0]
            pool = normed.mean(0) + normed.max(0).values
            expected = encoder.linear(pool[None])[0].relu()
            torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-4)


def test_pooling_is_that_of_each_set_alone() -> None:
    x = torch.randn(4, 5, 3)
    found = pooled(x, MASK.bool())
    for row in range(3):
        there = x[row][MASK[row].bool()]
        torch.testing.assert_close(found[row], there.mean(0) + there.amax(0))
    assert not found[3].any()


# -- order and padding -----------------------------------------------------------------------------


@every_policy
@every_set
def test_the_order_of_entities_is_of_no_matter(name: str, kind: str) -> None:
    policy = built(name, SETS[kind]).double()
    x = observation_batch(SETS[kind], 6)
    for seed in range(4):
        order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
        if kind == "rows":
            shuffled = x[:, order]
        else:
            shuffled = {**x, **{key: x[key][:, order] for key in ("entities", "mask")}}
        expected = answer(policy, x)
        torch.testing.assert_close(answer(policy, shuffled), expected, atol=1e-12, rtol=1e-12)


@every_policy
@pytest.mark.parametrize("filling", [0.0, 1e30, -7.0, float("nan"), float("inf")])
def test_what_fills_padding_changes_no_bit(name: str, filling: float) -> None:
    policy, x = built(name), seen()
    absent = (MASK == 0)[..., None]
    other = {**x, "entities": x["entities"].masked_fill(absent, filling)}
    torch.testing.assert_close(answer(policy, other), answer(policy, x), atol=0, rtol=0)


@every_policy
def test_more_rows_of_padding_change_nothing(name: str) -> None:
    roomy = spaces.Dict({"entities": spaces.Box(-1.0, 1.0, (9, 10)), "mask": spaces.MultiBinary(9)})
    policy, other = built(name), built(name, roomy)
    other.load_state_dict(policy.state_dict())
    x = seen()
    longer = {
        "entities": torch.cat([torch.full((4, 4, 10), 3.0), x["entities"]], 1),
        "mask": torch.cat([torch.zeros(4, 4, dtype=torch.int8), x["mask"]], 1),
    }
    torch.testing.assert_close(answer(other, longer), answer(policy, x), atol=1e-5, rtol=1e-4)


@every_policy
def test_rows_of_the_padding_value_are_as_if_masked(name: str) -> None:
    policy = built(name)
    plain = built(name, ROWS, padding=-2.0)
    plain.load_state_dict(policy.state_dict())
    x = seen()
    filled = x["entities"].masked_fill((MASK == 0)[..., None], -2.0)
    filled[1, 0, :9] = -2.0  # one other number: an entity all the same
    x["entities"][1, 0, :9] = -2.0
    torch.testing.assert_close(answer(plain, filled), answer(policy, x), atol=0, rtol=0)


@every_policy
def test_without_a_mask_and_a_padding_value_every_row_is_an_entity(name: str) -> None:
    policy, masked = built(name, ROWS), built(name)
    masked.load_state_dict(policy.state_dict())
    x = seen(torch.ones_like(MASK))
    x["entities"][0, 2] = 0
    torch.testing.assert_close(answer(policy, x["entities"]), answer(masked, x), atol=0, rtol=0)


@every_policy
def test_a_set_without_entities_gives_finite_answers_and_gradients(name: str) -> None:
    policy, x = built(name), seen(torch.zeros_like(MASK))
    x["entities"].fill_(float("nan"))
    logits, values = policy(x)
    (logits.square().sum() + values.sum()).backward()
    assert logits.isfinite().all()
    assert values.isfinite().all()
    gradients = [each.grad for each in policy.parameters() if each.grad is not None]
    assert gradients
    assert all(each.isfinite().all() for each in gradients)


@every_policy
def test_gradients_are_finite_where_some_sets_are_empty(name: str) -> None:
    policy, x = built(name), seen()
    logits, values = policy(x)
    (logits.square().sum() + values.sum()).backward()
    for parameter in policy.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


@every_policy
def test_a_nan_of_an_entity_that_is_there_stays_visible(name: str) -> None:
    policy, x = built(name), seen()
    x["entities"][0, 2, 4] = float("nan")
    found = answer(policy, x)
    assert found[0].isnan().any()
    assert found[1:].isfinite().all()


@every_policy
def test_every_entity_that_is_there_counts(name: str) -> None:
    policy, x = built(name), seen()
    before = answer(policy, x)
    for row, entity in MASK.nonzero().tolist():
        other = {**x, "entities": x["entities"].clone()}
        other["entities"][row, entity] += 3.0
        moved = (answer(policy, other) - before).abs().amax(1) > 1e-4
        assert moved.nonzero().flatten().tolist() == [row]


def test_entities_see_each_other_only_by_attention() -> None:
    network = AttentionNetwork(10, 64, num_blocks=1, num_heads=4, feedforward=128)
    x, all_there = seen()["entities"][:1], torch.ones(1, 5, dtype=torch.bool)
    without_last = all_there & (torch.arange(5) < 4)
    with torch.no_grad():
        whole, partial = network(x, all_there), network(x, without_last)
    assert ((whole - partial)[0, :4].abs().amax(1) > 1e-4).all()


# -- observations ----------------------------------------------------------------------------------


@every_policy
@pytest.mark.parametrize("mask", [torch.bool, torch.int8, torch.int64, torch.float32])
@pytest.mark.parametrize("entities", [torch.float64, torch.float32, torch.int64, torch.int8])
def test_any_dtype_gives_the_same_float32(
    name: str, mask: torch.dtype, entities: torch.dtype
) -> None:
    policy, x = built(name), seen()
    x["entities"] = (3 * x["entities"]).round()
    cast = {"entities": x["entities"].to(entities), "mask": x["mask"].to(mask)}
    found = answer(policy, cast)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, answer(policy, x), atol=1e-6, rtol=1e-5)


@every_policy
def test_no_order_of_keys_changes_anything(name: str) -> None:
    backwards = spaces.Dict([(key, COMMON[key]) for key in reversed(list(COMMON))])
    one, other = built(name, COMMON), built(name, backwards)
    other.load_state_dict(one.state_dict())
    x = observation_batch(COMMON, 4)
    turned = {key: x[key] for key in reversed(list(x))}
    for policy in (one, other):
        for observations in (x, turned):
            torch.testing.assert_close(answer(policy, observations), answer(one, x), atol=0, rtol=0)


@every_policy
@every_set
@pytest.mark.parametrize("action", ["discrete", "multidiscrete", "box"])
def test_it_serves_alone_and_with_memory(name: str, kind: str, action: str) -> None:
    env = Spaces(SETS[kind], ACTIONS[action])
    policy = POLICIES[name](env, hidden_size=16)
    x = observation_batch(env.observation, 2, 3)
    with torch.no_grad():
        logits, values = policy(x)
        assert (len(parts_of(logits)[0]), values.shape) == (6, (6, 1))
        alone, _ = policy.forward_eval(map_tensors(lambda leaf: leaf[:, 1], x))
        for one, both in zip(parts_of(alone), parts_of(logits), strict=True):
            torch.testing.assert_close(one, both[[1, 4]], atol=1e-5, rtol=1e-4)
        logits, values = LSTMWrapper(env, policy)(x)
        assert (len(parts_of(logits)[0]), values.shape) == (6, (2, 3))


@every_policy
@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        ({"entities": torch.zeros(2, 5, 10)}, "missing"),
        ({"entities": torch.zeros(2, 5, 9), "mask": torch.ones(2, 5)}, r"\(2, 5, 9\)"),
        ({"entities": torch.zeros(2, 5, 10), "mask": torch.ones(2, 4)}, r"\(2, 4\)"),
        (torch.zeros(2, 5, 10), "dict of tensors"),
    ],
)
def test_observations_of_another_form_are_refused(name: str, spoilt: Any, said: str) -> None:
    policy = built(name)
    for run in (policy, policy.forward_eval):
        with pytest.raises(IncompatibleSpace, match=said):
            run(spoilt)


# -- spaces ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "kinds"),
    [
        (ROWS, ("array", "entities")),
        (MASKED, ("dict", "entities")),
        (COMMON, ("dict", "entities")),
        (spaces.Dict({"entities": ROWS}), ("dict", "entities")),
        (spaces.Box(0, 9, (2, 3), np.int16), ("array", "entities")),
        (VECTOR, ("vector",)),
        (spaces.Box(-1.0, 1.0, (2, 3, 4, 5)), ("array",)),
        (spaces.Box(-1.0, 1.0, (0, 3)), ("array",)),
        (OBSERVATIONS["dict"], ("dict",)),
        (spaces.Dict({"entities": VECTOR}), ("dict",)),
        (spaces.Dict({"entities": MASKED}), ("dict",)),
        (spaces.Dict({"entities": ROWS, "mask": spaces.MultiBinary(4)}), ("dict",)),
        (spaces.Dict({"entities": ROWS, "mask": spaces.Box(-1.0, 1.0, (5,))}), ("dict",)),
        (spaces.Dict({"entities": ROWS, "mask": spaces.Discrete(5)}), ("dict",)),
    ],
)
def test_what_holds_entities(space: Any, kinds: tuple[str, ...]) -> None:
    assert observation_kinds(space) == kinds
    assert (find_entities(space) is not None) == ("entities" in kinds)


@every_policy
def test_other_spaces_are_refused_by_class_and_by_name(name: str) -> None:
    registry = discover(plugins=[], environ={"PUFFER_POLICIES_REGISTRY": ""})
    for space in (VECTOR, OBSERVATIONS["dict"], OBSERVATIONS["image_chw"]):
        env = Spaces(space, FOUR)
        with pytest.raises(IncompatibleSpace, match=r"(?s)'entities'.*'MultiInput' fits"):
            POLICIES[name](env)
        with pytest.raises(IncompatibleSpace, match="reads entities"):
            get_policy(name, env)
        judged = {fit.name: fit.reasons for fit in fits(env, registry=registry)}
        assert "it reads entities observations" in judged[name][0]
        assert judged["MultiInput"] == ()


@every_policy
@every_set
def test_it_fits_sets_and_is_built_by_name(name: str, kind: str) -> None:
    env = Spaces(SETS[kind], FOUR)
    registry = discover(plugins=[], environ={"PUFFER_POLICIES_REGISTRY": ""})
    assert {fit.name: fit.fits for fit in fits(env, registry=registry)}[name]
    policy = get_policy(f"LSTMWrapper({name}(entity_size=32))", env)
    assert policy.policy.encoder.network.first.linear.out_features == 32


@every_policy
def test_padding_beside_a_mask_and_padding_that_equals_nothing_are_refused(name: str) -> None:
    with pytest.raises(BuildError, match="have a mask"):
        built(name, padding=0.0)
    with pytest.raises(BuildError, match="padding=nan"):
        built(name, ROWS, padding=float("nan"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"num_heads": 3}, "3 heads can't share 64"),
        ({"num_blocks": 0}, "num_blocks=0"),
        ({"num_heads": 0, "feedforward": 0}, "num_heads=0, feedforward=0"),
        ({"entity_size": 0}, "from 1 on"),
    ],
)
def test_sizes_that_leave_nothing_are_refused(arguments: dict[str, int], said: str) -> None:
    with pytest.raises(BuildError, match=said):
        built("EntityAttention", **arguments)


# -- start -----------------------------------------------------------------------------------------


@every_policy
def test_layers_start_orthogonal_with_zero_biases(name: str) -> None:
    for layer in built(name).encoder.modules():
        if isinstance(layer, nn.Linear):
            blocks = 3 if layer.out_features == 3 * layer.in_features else 1
            for rows in layer.weight.detach().chunk(blocks):
                small = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
                gain = float(small.diagonal().mean())
                assert gain == pytest.approx(1) or gain == pytest.approx(2)
                torch.testing.assert_close(small, gain * torch.eye(len(small)), atol=1e-4, rtol=0)
            assert not layer.bias.any()


@every_policy
@every_set
def test_the_first_policy_is_nearly_uniform(name: str, kind: str) -> None:
    policy = built(name, SETS[kind])
    logits, _ = policy(observation_batch(SETS[kind], 8))
    torch.testing.assert_close(logits.softmax(-1), torch.full((8, 4), 0.25), atol=0.05, rtol=0)
