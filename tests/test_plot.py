"""Plots: curves as they were measured, seeds averaged, and errors that name what there is."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from commands import run

from puffer_policies.config.load import load_config
from puffer_policies.errors import CheckpointError, ConfigError, MissingDependency
from puffer_policies.runs.folder import runs_in
from puffer_policies.studies.curves import RETURN, Curve, average_curves, labels_of, read_curve
from puffer_policies.studies.plot import plot_runs

pytestmark = pytest.mark.trainer


@pytest.fixture(autouse=True)
def _project(project):
    """Make runs in a folder of the test's own."""


def write_run(folder, points, *flags, env="CartPole-v1", speed=100.0, metric=RETURN):
    """Write what a run leaves: `points` are pairs of steps and a value, None where none is."""
    folder.mkdir()
    config = load_config(env, list(flags))
    (folder / "config.json").write_text(json.dumps(config.to_args()))
    lines = [{"agent_steps": steps, "SPS": speed, metric: value} for steps, value in points]
    lines += [{"interrupted": "SIGINT", "agent_steps": 7}, {"evaluation": {"mean": 1.0}}]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def test_a_curve_is_what_the_run_measured(project):
    folder = write_run(project / "a", [(100, None), (200, 5.0), (300, 7.0)])
    curve = read_curve(folder)
    assert (curve.x.tolist(), curve.y.tolist()) == ([200, 300], [5, 7])
    assert read_curve(folder, x="seconds").x.tolist() == [2, 3]


def test_a_run_that_went_on_from_earlier_is_read_once(project):
    folder = write_run(project / "a", [(100, 1.0), (200, 2.0), (300, 3.0), (200, 8.0), (300, 9.0)])
    assert read_curve(folder).y.tolist() == [1, 8, 9]


def test_seeds_of_one_config_are_averaged(project):
    curves = [
        read_curve(write_run(project / "a", [(0, 0.0), (100, 10.0)], "--train.seed", "1")),
        read_curve(
            write_run(project / "b", [(0, 4.0), (50, 4.0), (200, 4.0)], "--train.seed", "2")
        ),
    ]
    (series,) = average_curves(curves, labels_of(curves))
    assert (series.label, series.runs) == ("Default", 2)
    assert series.x.tolist() == [0, 50, 100]
    assert series.mean.tolist() == [2, 4.5, 7]
    assert (series.low <= series.mean).all()
    assert (series.mean <= series.high).all()
    assert (series.low[0], series.high[0]) == (0, 4)
    assert (series.interval_kind, series.last_text) == ("range", "7.00, range [4.00, 10.00]")


def test_six_runs_have_a_95_percent_interval():
    options = {"env_name": "CartPole-v1", "policy_name": "Default"}
    curves = [Curve(Path(str(y)), options, np.array([0.0]), np.array([float(y)])) for y in range(6)]
    (series,) = average_curves(curves, ["same"] * 6)
    low, high = series.last_interval
    assert 0 < low < 2.5 < high < 5
    assert series.last_text == f"2.50, 95 % CI [{low:.2f}, {high:.2f}]"


def test_groups_are_named_by_what_differs(project):
    flags = [("--train.learning-rate", "1e-3"), ("--train.learning-rate", "2e-3")]
    curves = [
        read_curve(write_run(project / str(i), [(1, 1.0), (2, 2.0)], *each))
        for i, each in enumerate(flags)
    ]
    assert labels_of(curves) == ["learning_rate=0.001", "learning_rate=0.002"]
    assert labels_of(curves, by="train.learning-rate")[0] == "train.learning_rate=0.001"
    assert labels_of(curves, by="run") == ["0", "1"]
    with pytest.raises(ConfigError, match="learning_rate'"):
        labels_of(curves, by="train.learningrate")


def test_runs_without_a_stretch_in_common_are_not_averaged(project):
    curves = [
        read_curve(write_run(project / "a", [(1, 1.0), (2, 2.0)])),
        read_curve(write_run(project / "b", [(5, 1.0), (6, 2.0)])),
    ]
    with pytest.raises(ConfigError, match="do not overlap"):
        average_curves(curves, labels_of(curves))


def test_an_svg_says_what_it_shows(project):
    folders = [
        write_run(project / "a", [(1000, 1.0), (2000, 2.0)]),
        write_run(project / "b", [(1000, 1.0), (2000, 2.0)], env="Acrobot-v1"),
    ]
    before = sys.modules.get("matplotlib.pyplot")
    panels = plot_runs(folders, "curves.svg")
    assert list(panels) == ["CartPole-v1", "Acrobot-v1"]
    text = (project / "curves.svg").read_text()
    for words in ("CartPole-v1", "Acrobot-v1", "environment steps", "episode return"):
        assert f"<!-- {words}" in text  # how matplotlib says what its paths spell
    ElementTree.fromstring(text)
    assert sys.modules.get("matplotlib.pyplot") is before


def test_the_verb_draws_and_tells_the_last_values(capsys, project):
    for seed in (1, 2, 3):
        write_run(
            project / f"s{seed}", [(1000, 1.0), (2000, 2.0 * seed)], "--train.seed", str(seed)
        )
    code, out, _ = run(capsys, "plot", "s1", "s2", "s3", "-o", "curves.png", "--json")
    (group,) = json.loads(out)["envs"]["CartPole-v1"]
    assert (code, group["runs"], group["last"]) == (0, 3, 4.0)
    assert (group["interval"], group["interval_kind"]) == ([2.0, 6.0], "range")
    from matplotlib.image import imread

    assert np.std(imread(project / "curves.png")) > 0


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (("a", "-o", "x.png", "--metric", "environment/episode_retrun"), f"'{RETURN}'"),
        (("a", "-o", "x.avi"), "ends in .png"),
        (("a", "-o", "nowhere/x.png"), "in a folder that exists"),
        (("nowhere", "-o", "x.png"), "nowhere holds no metrics.jsonl"),
        (("empty", "-o", "x.png"), "measured nothing yet"),
        (("endless", "-o", "x.png"), "No episode ended in endless"),
    ],
)
def test_a_plot_that_can_not_be_made_says_why(capsys, project, argv, expected):
    write_run(project / "a", [(1, 1.0), (2, 2.0)])
    write_run(project / "empty", [])
    write_run(project / "endless", [(1, 1.0)], metric="losses/value")
    code, out, err = run(capsys, "plot", *argv)
    assert (code, out) == (2, "")
    assert expected in err
    assert not (project / "x.png").exists()


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[1]",
        b"\xff",
        b"[" * 100_000,
        b'{"SPS": 0, "agent_steps": 3}',
        b'{"SPS": "9", "agent_steps": 3}',
        b'{"SPS": 9.0}',
        b'{"SPS": 9.0, "agent_steps": true}',
        b'{"SPS": 9.0, "agent_steps": ' + b"9" * 5_000 + b"}",
    ],
    ids=lambda line: line[:40],
)
def test_damaged_metrics_are_named(line, project):
    folder = write_run(project / "a", [(1, 1.0)])
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(CheckpointError, match="damaged: line 4"):
        read_curve(folder)


@pytest.mark.parametrize("torn", [b'{"SPS": 3.0, "agent', '{"é'.encode()[:-1]])
def test_a_last_line_that_a_kill_has_torn_is_left_out(torn, project):
    folder = write_run(project / "a", [(1, 1.0), (2, 2.0)])
    whole = (folder / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").write_bytes(whole + torn)
    assert list(read_curve(folder).y) == [1.0, 2.0]
    (folder / "metrics.jsonl").write_bytes(whole.rstrip())
    assert list(read_curve(folder).y) == [1.0, 2.0]


def test_without_matplotlib_the_extra_is_named(monkeypatch, project):
    folder = write_run(project / "a", [(1, 1.0)])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependency, match=r"puffer-policies\[plot\]"):
        plot_runs([folder], "x.png")


def test_a_seed_that_ran_twice_is_one_sample(project):
    points = [(100, 1.0), (200, 2.0)]
    curves = [read_curve(write_run(project / name, points)) for name in ("a", "b")]
    (series,) = average_curves(curves, ["x", "x"])
    assert (series.runs, series.last_interval) == (1, None)


def test_a_study_stands_for_its_runs(project):
    study = project / "study"
    runs = [study / "Default" / "a", study / "LSTM" / "b"]
    for folder in runs:
        folder.parent.mkdir(parents=True)
        write_run(folder, [(100, 1.0)])
    assert runs_in(study) == runs
    assert runs_in(runs[0]) == runs[:1]
    assert runs_in(project / "nothing") == [project / "nothing"]
