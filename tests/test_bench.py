"""The benchmark suite: turns of processes, statistics, comparison with a stored result, tables."""

from __future__ import annotations

import importlib
import json
import math
import random
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tool_files import load_tool

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def harness():
    return importlib.import_module("suite.harness")


@pytest.fixture
def report():
    return importlib.import_module("suite.report")


@pytest.fixture
def bench():
    return importlib.import_module("bench")


@pytest.fixture
def candidate(harness, tmp_path):
    """Make a candidate of a few lines; without any, one whose calls take `seconds` each."""

    def make(name: str, seconds: float = 1.0, *, code: str | None = None, home: str = "ours"):
        path = tmp_path / f"{name}.py"
        lines = f"""
            import json, pathlib, sys
            print(json.dumps({{"ready": True}}), flush=True)
            for line in sys.stdin:
                with open({str(tmp_path / "order")!r}, "a") as file:
                    print({name!r}, file=file)
                wall = {seconds} * int(line)
                print(json.dumps({{"wall": wall, "cpu": wall / 2}}), flush=True)
        """
        path.write_text(
            "\n".join(line[12:] for line in lines.splitlines()) if code is None else code
        )
        return harness.Candidate(name, str(path), (), home)

    return make


@pytest.fixture
def case(harness, candidate):
    """A race of two candidates; ours takes 1 s a call, and the rival 2 s."""
    return harness.Case(
        "toy/one", "a toy", (candidate("ours"), candidate("rival", 2.0)), turn=0.0, rounds=(4, 4)
    )


PYTHONS = {"ours": sys.executable}


def test_candidates_take_turns_from_both_ends(harness, case, tmp_path):
    harness.measure(case, PYTHONS)
    assert (tmp_path / "order").read_text().split() == ["ours", "rival", "rival", "ours"] * 2


def test_each_turn_counts_and_is_divided_by_its_calls(harness, case):
    # Of 1 s a call, 4 calls make a turn of 4 s; the warm-up finds that out and does not count.
    result = harness.measure(replace(case, turn=4.0), PYTHONS)
    assert result.missing == {}
    assert result.times["ours"].wall == [1.0] * 4
    assert result.times["rival"].cpu == [1.0] * 4


def test_a_slow_first_call_does_not_shorten_the_turns(harness, candidate):
    code = """import json, sys
print(json.dumps({"ready": True}), flush=True)
for count, line in enumerate(sys.stdin):
    wall = 1.0 if count else 50.0
    print(json.dumps({"wall": wall * int(line), "cpu": 1, "calls": int(line)}), flush=True)
"""
    case = harness.Case("toy/cold", "", (candidate("ours", code=code),), turn=8.0, rounds=(2, 2))
    notes = harness.measure(case, PYTHONS).times["ours"].notes
    assert notes == [{"calls": 8}] * 2


def test_what_a_library_prints_is_no_answer(harness, candidate):
    code = """import json, sys
print("{not JSON}", flush=True)
print("[1, 2]", flush=True)
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    print("{}: {}".format("loss", 1.0), flush=True)
    print(json.dumps({"wall": 1.0, "cpu": 1.0}), flush=True)
"""
    case = harness.Case("toy/chatty", "", (candidate("ours", code=code),), turn=0.0, rounds=(2, 2))
    result = harness.measure(case, PYTHONS)
    assert (result.missing, result.times["ours"].wall) == ({}, [1.0, 1.0])


def test_a_candidate_may_answer_more_than_times(harness, candidate, report):
    code = """import json, sys
print("a library prints")
print(json.dumps({"ready": True}), flush=True)
for number, _ in enumerate(sys.stdin):
    print(json.dumps({"wall": 1, "cpu": 1, "steps": 10 * number}), flush=True)
"""
    case = harness.Case("toy/steps", "", (candidate("ours", code=code),), turn=0.0, rounds=(3, 3))
    record = report.record_of(case, harness.measure(case, PYTHONS))
    assert record["candidates"]["ours"]["steps"] == 10
    assert report.amount(record["candidates"]["ours"], 0) == "1.0 s, 0k steps"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise SystemExit('no such library')", "no such library"),
        ("import a_library_that_is_missing", "No module named 'a_library_that_is_missing'"),
        ("raise SystemExit(3)", "ended with status 3"),
        ("print('{}', flush=True)\ninput()\nraise SystemExit('tired')", "tired"),
        ("print('{}', flush=True)\nimport time\ntime.sleep(60)", "gave no answer in 1 s"),
    ],
)
def test_a_rival_that_cannot_run_is_left_out_with_the_reason(
    harness, case, candidate, code, reason
):
    case = replace(case, candidates=(*case.candidates, candidate("broken", code=code)))
    result = harness.measure(case, PYTHONS, timeout=1.0 if "sleep" in code else 60.0)
    assert reason in result.missing.pop("broken")
    assert result.missing == {}
    assert set(result.times) == {"ours", "rival"}


def test_without_an_environment_a_rival_is_left_out(harness, case, candidate):
    away = candidate("away", home="peers")
    result = harness.measure(replace(case, candidates=(*case.candidates, away)), PYTHONS)
    assert result.missing == {"away": "there is no environment 'peers'"}


def test_where_ours_fails_nobody_is_measured(harness, case, candidate, report):
    broken = candidate("ours", code="raise SystemExit('broken')")
    case = replace(case, candidates=(broken, case.candidates[1]), goals={"rival": 1.0})
    record = report.record_of(case, harness.measure(case, PYTHONS))
    assert record["ratios"] == {}
    assert "failed" in report.tables({"toy/one": record}, {"toy": "Toys"})


def test_no_further_round_starts_after_the_time_of_a_case(harness, case):
    case = replace(case, rounds=(2, 1000), seconds=0.0)
    assert len(harness.measure(case, PYTHONS).times["ours"].wall) == 2


def test_a_quick_run_takes_fewer_rounds(harness, case):
    case = replace(case, rounds=(7, 20), seconds=10.0, turn=1.0)
    assert harness.FULL.of(case) == (7, 20, 10.0, 1.0)
    fewest, most, seconds, turn = harness.QUICK.of(case)
    assert (fewest, most) == (3, 4)
    assert (seconds, turn) == pytest.approx((2.0, 0.2))


def test_the_ratio_is_the_median_of_the_rounds(harness):
    # The machine was half as fast in the last round, which hurt both alike.
    ours = harness.Times(wall=[1.0, 1.0, 1.0, 2.0], cpu=[1.0] * 4)
    theirs = harness.Times(wall=[3.0, 3.0, 3.0, 6.0], cpu=[2.0] * 4)
    ratio = harness.ratio(ours, theirs)
    assert ratio.median == pytest.approx(3.0)
    assert (ratio.best, ratio.cpu) == (3.0, 2.0)
    assert ratio.noise == pytest.approx(0.0, abs=1e-9)


def test_noise_falls_with_the_number_of_rounds_and_is_unknown_of_one(harness):
    assert harness.noise([0.0]) == math.inf
    few, many = harness.noise([0.0, 0.1] * 4), harness.noise([0.0, 0.1] * 16)
    assert few == pytest.approx(1.82 * 0.1 / math.sqrt(8), rel=1e-2)
    assert many == pytest.approx(few / 2)


@pytest.mark.parametrize("number", [3, 5, 9, 25])
def test_noise_covers_the_true_median_as_often_as_it_says(harness, number):
    draws = random.Random(1)
    samples = [[draws.gauss(0.0, 1.0) for _ in range(number)] for _ in range(2000)]
    inside = [abs(statistics.median(each)) <= harness.noise(each) for each in samples]
    assert 0.9 < statistics.mean(inside) < 0.98


@pytest.fixture
def record(harness, report):
    """Return what would be stored of a race in which ours was `speed` times as fast."""

    def make(speed: float, *, noise: float = 0.0, goals=None, missing=None, name="toy/one"):
        spread = [-noise, noise] * 8  # of logarithms
        times = {
            "ours": harness.Times(wall=[1.0] * 16, cpu=[1.0] * 16),
            "rival": harness.Times(
                wall=[speed * math.exp(each) for each in spread], cpu=[1.0] * 16
            ),
        }
        candidates = tuple(harness.Candidate(each, "") for each in ("ours", "rival"))
        case = harness.Case(name, "a toy", candidates, goals or {})
        return {name: report.record_of(case, harness.Result(times, missing or {}))}

    return make


@pytest.mark.parametrize(
    ("before", "after", "noise", "fell", "rose"),
    [
        (2.0, 2.0, 0.0, False, False),
        (2.0, 1.95, 0.0, False, False),  # less than what two runs differ by
        (2.0, 1.8, 0.0, True, False),
        (2.0, 1.8, 0.3, False, False),  # the turns were spread more than that
        (2.0, 2.4, 0.0, False, True),
    ],
)
def test_a_ratio_fell_if_noise_does_not_explain_it(
    report, record, before, after, noise, fell, rose
):
    results = ({"cases": record(each, noise=noise)} for each in (before, after))
    (change,) = report.changes(*results)
    assert (change.fell, change.rose) == (fell, rose)


def test_the_comparison_names_what_fell_and_what_was_not_measured(report, record):
    before = {"cases": {**record(2.0), **record(3.0, name="toy/two")}}
    after = {"cases": {**record(1.0), **record(3.0, name="toy/two")}}
    del after["cases"]["toy/two"]["ratios"]["rival"]
    lines = "\n".join(report.comparison(before, after))
    assert "1 of 1 ratios fell" in lines
    assert "toy/one against rival: 2.00 -> 1.00" in lines
    assert "Not measured this time: toy/two against rival." in lines


def test_without_a_stored_result_the_comparison_says_so(report, record, tmp_path):
    stored = report.read(tmp_path / "none.json")
    assert "no stored result" in "".join(report.comparison(stored, {"cases": record(2.0)}))


@pytest.mark.parametrize(
    ("speed", "verdict"), [(2.0, "| met |"), (1.996, "| met |"), (1.9, "missed")]
)
def test_the_table_says_whether_a_goal_is_met(report, record, speed, verdict):
    table = report.tables(record(speed, goals={"rival": 2.0}), {"toy": "Toys"})
    assert "### Toys" in table
    assert f"{speed:.2f}x" in table
    assert verdict in table


def test_the_table_gives_the_reason_where_a_goal_is_missed(report, record):
    missed, met = ({**record(speed, goals={"rival": 2.0})} for speed in (1.9, 2.1))
    for each in (missed, met):
        each["toy/one"]["shortfall"] = "resets"
    assert "| **missed**: resets |" in report.tables(missed, {"toy": "Toys"})
    assert "resets" not in report.tables(met, {"toy": "Toys"})


def test_the_table_names_who_is_missing_with_the_reason(report, record):
    table = report.tables(record(2.0, missing={"Peer": "not there"}), {"toy": "Toys"})
    assert "| Peer | not measured: not there |" in table


def test_work_is_shown_as_steps_a_second(report):
    assert report.amount({"median": 0.5}, 1000) == "2.0k steps/s"
    assert report.amount({"median": 0.5}, 1_000_000) == "2.00M steps/s"
    amounts = [report.amount({"median": each}, 0) for each in (1.5, 0.0123, 45e-6)]
    assert amounts == ["1.5 s", "12.3 ms", "45 us"]


def test_a_result_is_stored_and_read_as_it_is(report, record, tmp_path):
    data = {"cases": record(2.0, noise=0.1)}
    report.write(tmp_path / "new" / "result.json", data)
    assert report.read(tmp_path / "new" / "result.json") == data


def test_the_spread_of_a_single_round_is_stored_as_unknown(report, harness):
    times = {name: harness.Times([1.0], [1.0]) for name in ("ours", "rival")}
    case = harness.Case("toy/one", "", tuple(harness.Candidate(name, "") for name in times))
    record = report.record_of(case, harness.Result(times))
    assert record["ratios"]["rival"]["noise"] is None
    assert json.loads(json.dumps(record)) == record


@pytest.fixture
def command(bench, case, monkeypatch, tmp_path):
    """Run the command on toy cases and return its exit status; its files are in a folder."""
    cases = [case, replace(case, name="toy/two"), replace(case, name="other/one")]
    monkeypatch.setattr(bench, "CASES", cases)
    monkeypatch.setattr(bench, "GROUPS", {"toy": "Toys", "other": "Others"})
    files = ["--output", str(tmp_path / "latest.json"), "--stored", str(tmp_path / "stored.json")]
    return lambda *arguments: bench.main([*arguments, *files])


def test_a_run_prints_its_table_and_keeps_its_result(command, report, tmp_path, capsys):
    assert command() == 0
    assert "| a toy | 1 s | rival | 2 s | 2.00x ± 0% |" in capsys.readouterr().out
    data = report.read(tmp_path / "latest.json")
    assert list(data["cases"]) == ["toy/one", "toy/two", "other/one"]
    assert data["machine"]["cores"] > 0
    assert "torch" in data["versions"]["ours"]
    assert not (tmp_path / "stored.json").exists()


def test_cases_are_chosen_by_how_their_names_begin(command, report, tmp_path):
    assert command("--only", "other", "toy/t") == 0
    assert list(report.read(tmp_path / "latest.json")["cases"]) == ["toy/two", "other/one"]
    with pytest.raises(SystemExit, match="No case begins with 'nonsense'"):
        command("--only", "nonsense")


def test_some_cases_take_the_place_of_theirs_in_the_stored_result(command, report, tmp_path):
    command("--store")
    first = report.read(tmp_path / "stored.json")
    command("--store", "--only", "toy/two")
    second = report.read(tmp_path / "stored.json")
    assert list(second["cases"]) == list(first["cases"])
    assert second["command"] == first["command"]
    first["versions"]["ours"]["torch"] = "1.0"
    report.write(tmp_path / "stored.json", first)
    (tmp_path / "latest.json").unlink()
    with pytest.raises(SystemExit, match="has another versions: run every case"):
        command("--store", "--only", "toy/two")
    assert not (tmp_path / "latest.json").exists()  # before anything was measured
    assert command("--store") == 0


def test_a_result_of_another_machine_is_named_as_such(command, report, tmp_path, capsys):
    command("--store", "--only", "toy/one")
    assert "another machine" not in capsys.readouterr().out
    stored = report.read(tmp_path / "stored.json")
    stored["machine"]["cpu"] = "another"
    report.write(tmp_path / "stored.json", stored)
    command("--only", "toy/one")
    assert "The stored result is of another machine" in capsys.readouterr().out


def test_an_interpreter_that_does_not_run_is_told_in_words(command, tmp_path):
    with pytest.raises(SystemExit, match="The interpreter of 'peers' does not run"):
        command("--peers", str(tmp_path / "nothing"))


def test_the_exit_status_says_that_a_ratio_fell_if_asked_to(command, report, tmp_path):
    command("--store", "--only", "toy/one")
    stored = report.read(tmp_path / "stored.json")
    stored["cases"]["toy/one"]["ratios"]["rival"]["median"] = 4.0
    report.write(tmp_path / "stored.json", stored)
    assert command("--only", "toy/one") == 0
    assert command("--only", "toy/one", "--fail") == 1


def test_an_interruption_keeps_what_was_measured_before(
    command, bench, report, monkeypatch, tmp_path
):
    def measure(case, *arguments, **options):
        if case.name == "toy/two":
            raise KeyboardInterrupt
        return whole(case, *arguments, **options)

    whole = bench.measure
    monkeypatch.setattr(bench, "measure", measure)
    assert command("--store") == 130
    assert list(report.read(tmp_path / "latest.json")["cases"]) == ["toy/one"]
    assert not (tmp_path / "stored.json").exists()


def test_cases_are_listed_without_torch():
    code = (
        "import sys; import bench; bench.main(['--list', '--only', 'act']);"
        "assert not {'torch', 'numpy', 'gymnasium', 'puffer_policies'} & set(sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=BENCHMARKS, capture_output=True, text=True, check=True
    )
    assert "act/mlp/64" in run.stdout


def test_every_case_has_a_name_of_its_own_a_table_and_scripts_that_exist(harness):
    cases = importlib.import_module("suite.cases")
    names = [case.name for case in cases.CASES]
    assert len(set(names)) == len(names)
    for case in cases.CASES:
        candidates = [each.name for each in case.candidates]
        assert case.name.partition("/")[0] in cases.GROUPS
        assert len(set(candidates)) == len(candidates)
        assert set(case.goals) <= set(candidates[1:])
        assert [
            each.script for each in case.candidates if not (harness.PEERS / each.script).exists()
        ] == []


def test_versions_are_those_of_our_environment_and_what_differs_in_others():
    homes = {
        "ours": {"torch": "2.9", "numpy": "2.4", "puffer-policies": "0.1"},
        "peers": {"torch": "2.9", "numpy": "2.4"},
        "pufferlib": {"torch": "2.9", "numpy": "1.26", "pufferlib": "3.0"},
    }
    text = load_tool("write_performance_page").versions_of(homes)
    assert text == "torch 2.9, numpy 2.4; for PufferLib numpy 1.26, pufferlib 3.0"


def test_the_page_is_that_of_the_stored_result():
    tool = load_tool("write_performance_page")
    assert tool.PAGE.read_text(encoding="utf-8") == tool.page()
