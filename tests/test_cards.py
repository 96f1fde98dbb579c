"""Cards: what is measured of a policy or wrapper, and what the lines of results say of it."""

from __future__ import annotations

import json

import pytest
import torch
from commands import run
from torch import nn

from puffer_policies.cards import measurement
from puffer_policies.cards.card import TASK_TEXTS, Card, CardFile, read_cards, write_cards
from puffer_policies.cards.measurement import measure_card
from puffer_policies.cards.results import read_results
from puffer_policies.cli.show import shipped_card, shipped_learning
from puffer_policies.nn.init import drawn_as, layer_init, orthogonal_gates
from puffer_policies.registry import default_registry

pytestmark = pytest.mark.usefixtures("project")

DEFAULT_ON_V = (8 + 1) * 128 + (128 + 1) * (4 + 1)
LSTM = 4 * (128 + 128 + 2) * 128


@pytest.fixture(scope="module", autouse=True)
def _few_turns():
    """Times are only compared with 0 here, so that two turns are enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measurement, "TURN_SECONDS", 0.0)
        yield


@pytest.fixture(scope="module")
def cards() -> dict[str, Card]:
    names = ("Default", "LSTMWrapper", "SquashedGaussianWrapper")
    return {name: measure_card(name, default_registry()) for name in names}


def test_a_policy_without_memory_is_counted_on_both_reference_tasks(cards):
    card = cards["Default"]
    pixels = 4 * 84 * 84
    assert card.task == "V"
    assert card.parameters == {"V": DEFAULT_ON_V, "P84": DEFAULT_ON_V + (pixels - 8) * 128}
    assert card.added == {}
    assert card.parity_error is None


def test_the_weights_of_a_card_are_all_that_is_trained(cards):
    shapes = [weight.shape for weight in cards["Default"].weights.values()]
    assert sum(torch.Size(shape).numel() for shape in shapes) == DEFAULT_ON_V


def test_a_memory_is_measured_around_default_and_its_steps_equal_its_sequence(cards):
    card = cards["LSTMWrapper"]
    assert card.expression == "LSTMWrapper(Default)"
    assert card.added == {"V": LSTM, "P84": LSTM}
    assert all(name.startswith("core.") for name in card.weights)
    assert 0 <= card.parity_error < 1e-5


def test_what_does_not_fit_the_first_task_is_measured_on_one_that_it_fits(cards):
    card = cards["SquashedGaussianWrapper"]
    assert card.task == "V to Box(2)"
    assert card.added == {card.task: 0}
    assert card.weights == {}


def test_costs_are_of_the_rows_that_the_card_names(cards):
    assert all(card.step_ms > 0 and card.training_ms > 0 for card in cards.values())
    assert {card.training_rows for card in cards.values()} == {(64, 64)}


def test_cards_survive_their_file(cards, tmp_path):
    file = CardFile("a machine", cards)
    write_cards(tmp_path / "cards.json", file)
    assert read_cards(tmp_path / "cards.json") == file


def test_layers_that_are_drawn_alike_are_told_once():
    card = measure_card("MinGRUWrapper(Default, num_layers=3)", default_registry())
    assert card.first_weights == {
        "core.layers.*.linear.weight": "orthogonal, gain 1 in 2 blocks",
        "core.layers.*.linear.bias": "0",
    }


def test_measuring_leaves_threads_and_generators_as_they_were():
    torch.manual_seed(5)
    before = torch.get_num_threads(), torch.random.get_rng_state()
    measure_card("Default", default_registry())
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])


def test_show_prints_the_card_below_the_record(capsys):
    code, out, _ = run(capsys, "show", "LSTMWrapper", "--card")
    assert code == 0
    assert "paper" in out
    assert "133,893 on V" in out
    assert "orthogonal, gain 1 in 4 blocks" in out


def test_show_card_as_json_is_the_record_and_the_card(capsys):
    _, out, _ = run(capsys, "show", "Default", "--card", "--json")
    told = json.loads(out)
    assert told["card"]["parameters"]["V"] == DEFAULT_ON_V
    assert told["qualified_name"] == "puffer-policies/Default"


def test_show_prints_the_shipped_card_and_what_was_learned_without_torch(capsys):
    code, out, _ = run(capsys, "show", "GRUWrapper")
    assert code == 0
    assert "100,869 on V" in out
    assert "puffer-policies train cartpole_novel --rnn-name GRUWrapper" in out
    _, out, _ = run(capsys, "show", "GRUWrapper", "--json")
    told = json.loads(out)
    assert told["card"]["machine"]
    assert {each["config"] for each in told["learning"]} >= {"cartpole_novel", "repeat_previous"}


def test_a_name_without_a_shipped_card_says_how_to_get_one(capsys, project):
    (project / "registry.toml").write_text(
        'schema = 1\n[policies.Mine]\ntarget = "puffer_policies.zoo.mlp:Default"\n'
    )
    _, out, _ = run(capsys, "show", "Mine")
    assert "Mine --card' measures it" in out
    assert "learning" not in out


def test_another_packages_name_is_not_taken_for_ours():
    assert shipped_card("puffer-policies/GRUWrapper")[1] is not None
    assert shipped_card("acme/GRUWrapper")[1] is None
    assert list(shipped_learning("acme/GRUWrapper")) == []


def test_show_takes_one_of_env_and_card(capsys):
    code, _, err = run(capsys, "show", "Default", "--card", "--env", "CartPole-v1")
    assert code == 2
    assert "not allowed with" in err


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        (layer_init(nn.Linear(5, 7), 0.5).weight, "orthogonal, gain 0.5"),
        (layer_init(nn.Linear(7, 5), 2.0).weight, "orthogonal, gain 2"),
        (layer_init(nn.Linear(7, 1), 3.0).weight, "norm 3"),
        (nn.Linear(3, 3).bias.detach() * 0 + 0.25, "0.25"),
        (torch.tensor([1.0, 3.0]), "mean 2.00, std 1.4"),
    ],
)
def test_how_a_weight_was_drawn_is_read_off_its_numbers(weight, said):
    assert drawn_as(weight) == said


@pytest.mark.parametrize("gates", [2, 3, 4])
def test_gates_are_told_from_one_orthogonal_draw(gates):
    weight = torch.empty(gates * 6, 6)
    orthogonal_gates(weight, gates)
    assert drawn_as(weight) == f"orthogonal, gain 1 in {gates} blocks"
    assert drawn_as(nn.init.orthogonal_(weight)) == "orthogonal, gain 1"


def line(name: str, stack: list[str], seed: int, mean: float) -> str:
    told = {"mean": mean, "deterministic": True}
    known = {"name": name, "stack": stack, "seed": seed, "steps": 1000}
    return json.dumps({**known, "evaluation": told})


def test_a_result_speaks_for_all_of_its_stack(tmp_path):
    gru, both = "cartpole --rnn-name GRUWrapper", ["ours/GRUWrapper", "ours/ActionMaskWrapper"]
    lines = [line(gru, both, 2, 400), line("cartpole", ["ours/Default"], 1, 40)]
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join([*lines, line(gru, both, 1, 500)]))
    found = read_results(path)
    assert set(found) == {*both, "ours/Default"}
    assert found[both[0]] == found[both[1]]
    (result,) = found["ours/GRUWrapper"]
    assert (result.seeds, result.returns, result.mean) == ((1, 2), (500, 400), 450)
    assert result.command == "puffer-policies train cartpole --rnn-name GRUWrapper"


def test_every_task_that_a_card_names_is_explained(capsys):
    assert {name.split()[0] for name in measurement.TASKS} <= set(TASK_TEXTS)
    code, out, _ = run(capsys, "show", "DiscreteEmbed")
    assert code == 0
    assert "codes: 4 choices of 8" in out
