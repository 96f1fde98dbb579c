"""The doctor: each way in which a package can be ill is found, named, and told from health."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from commands import run
from fake_packages import Site, site_in

from puffer_policies.registry import Registry, discover
from puffer_policies.registry.doctor import Finding, examine, examine_installation
from puffer_policies.registry.records import PolicyRecord

GOOD = "from puffer_policies.models import Default\n\nclass Net(Default):\n    pass\n"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with site_in(tmp_path) as site:
        yield site


def findings_of(registry: Registry, *, slow_seconds: float = 60.0) -> dict[str, Finding]:
    findings = examine(registry, slow_seconds=slow_seconds)
    return {f.subject: f for f in findings if not f.subject.startswith("puffer-policies/")}


def discovered(*plugins: str, **environ: str) -> Registry:
    return discover(plugins=plugins, environ=environ, cwd="/")


def test_the_built_ins_are_healthy():
    assert {finding.verdict for finding in examine(discovered())} == {"ok"}


def test_a_healthy_package_is_ok(site):
    site.install(
        "acme", entry_points={"policies": {"Net": "acme_a:Net"}}, files={"acme_a.py": GOOD}
    )
    assert findings_of(discovered("acme"))["acme/Net"].verdict == "ok"


@pytest.mark.parametrize(
    ("source", "verdict", "detail"),
    [
        ("raise RuntimeError('boom')", "broken", "boom"),
        ("import no_such_module_anywhere", "missing dependency", "no_such_module_anywhere"),
        ("x = (", "broken", "SyntaxError"),
        ("Net = 3", "broken", "should be a class"),
        ("import sys\nsys.exit(4)", "broken", "SystemExit"),
        ("class Net:\n    pass", "breaks the contract", "forward_eval"),
    ],
)
def test_what_ails_a_package_is_named(site, source, verdict, detail):
    site.install("ill", entry_points={"policies": {"Net": "ill_a:Net"}}, files={"ill_a.py": source})
    finding = findings_of(discovered("ill"))["ill/Net"]
    assert finding.verdict == verdict
    assert detail in finding.detail


def test_a_missing_extra_is_no_problem_but_a_broken_import_is(site):
    site.install("ill", entry_points={"policies": {"A": "ill_b:A", "B": "ill_c:B"}})
    Path(site.folder, "ill_b.py").write_text("import no_such_module_anywhere")
    Path(site.folder, "ill_c.py").write_text("1 / 0")
    findings = findings_of(discovered("ill"))
    assert not findings["ill/A"].is_problem
    assert findings["ill/B"].is_problem


def test_a_slow_import_is_called_slow(site):
    slow = f"import time\nwhile time.process_time() < {time.process_time() + 0.3}: pass\n{GOOD}"
    site.install(
        "slow", entry_points={"policies": {"Net": "slow_a:Net"}}, files={"slow_a.py": slow}
    )
    finding = findings_of(discovered("slow"), slow_seconds=0.1)["slow/Net"]
    assert finding.verdict == "slow"


def test_two_packages_with_one_name_are_ambiguous(site):
    for name in ("one", "two"):
        files = {f"{name}_a.py": GOOD}
        site.install(name, entry_points={"policies": {"Net": f"{name}_a:Net"}}, files=files)
    findings = examine(discovered("one", "two"))
    ambiguous = {finding.subject for finding in findings if finding.verdict == "ambiguous"}
    assert ambiguous == {"one/Net", "two/Net"}


def test_a_package_that_offers_a_built_in_name_is_shadowed(site):
    site.install(
        "acme", entry_points={"policies": {"Default": "acme_s:Net"}}, files={"acme_s.py": GOOD}
    )
    verdicts = {f.verdict for f in examine(discovered("acme")) if f.subject == "acme/Default"}
    assert verdicts == {"ok", "shadowed"}


def test_a_blocked_package_is_not_imported(site, tmp_path):
    site.install(
        "bad", entry_points={"policies": {"Net": "bad_a:Net"}}, files={"bad_a.py": "1 / 0"}
    )
    own = tmp_path / "registry.toml"
    own.write_text('schema = 1\n[block]\nnames = ["bad/Net"]\n')
    finding = findings_of(discovered("bad", PUFFER_POLICIES_REGISTRY=str(own)))["bad/Net"]
    assert finding.verdict == "blocked"
    assert not finding.is_problem
    assert "bad_a" not in sys.modules


def test_a_plug_in_that_imports_torch_is_found_out(site):
    site.install(
        "heavy",
        entry_points={"plugins": {"heavy": "heavy_a"}},
        # An empty module stands for torch, as all that counts is its name.
        files={"heavy_a.py": "import torch\n", "torch.py": ""},
    )
    code = (
        "from puffer_policies.registry import discover\n"
        "from puffer_policies.registry.doctor import examine\n"
        "findings = examine(discover(plugins=['heavy']))\n"
        "print([f.verdict for f in findings if f.subject.startswith('heavy')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(site.folder), "PATH": "", "HOME": str(site.folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "['imports torch']"


def test_problems_come_first():
    place = discovered().get("Default").provenance
    registry = Registry()
    for name, target in (("Aa", "puffer_policies.zoo.mlp:Default"), ("Zz", "no_such_module:X")):
        registry.add(PolicyRecord(name=name, target=target, provenance=place))
    assert [finding.is_problem for finding in examine(registry)] == [True, False]


def test_an_alias_or_a_preset_that_leads_nowhere_is_found(tmp_path):
    (tmp_path / "registry.toml").write_text(
        'schema = 1\n[alias]\nTiny = "Nope"\nGood = "Default"\n[removed]\nOld = "Worse."\n'
        '[presets.small]\npolicy = "Nope"\n[presets.round]\npolicy = "round"\n'
        '[presets.fine]\npolicy = "LSTMWrapper(Default)"\n'
    )
    findings = examine(discover(plugins=(), environ={}, cwd=tmp_path))
    ill = {finding.subject: finding for finding in findings if finding.is_problem}
    assert sorted(ill) == ["project/Tiny", "project/round", "project/small"]
    assert {finding.verdict for finding in ill.values()} == {"broken"}
    assert "'Nope'" in ill["project/small"].detail


def test_the_installation_is_described(site, monkeypatch):
    site.install("puffer-policies", version="9.9")
    (site.folder / "puffer_policies-9.9.dist-info" / "METADATA").write_text(
        "Name: puffer-policies\nVersion: 9.9\nProvides-Extra: fast\nProvides-Extra: film\n"
        "Requires-Dist: torch\nRequires-Dist: pytest>=1; extra == 'fast'\n"
        "Requires-Dist: acme[deep]; extra == 'film'\nRequires-Dist: nt; extra == 'fast' and "
        "os_name == 'none'\nRequires-Dist: ???\n"
    )
    site.install("acme")
    (site.folder / "acme-1.0.dist-info" / "METADATA").write_text(
        "Name: acme\nVersion: 1.0\nProvides-Extra: deep\nRequires-Dist: deepness; extra == 'deep'\n"
    )
    findings = {each.subject: each for each in examine_installation()}
    assert findings["torch"].detail.startswith(f"{torch.__version__}, ")
    assert "puffer-policies 9.9, gymnasium" in findings["Python"].detail
    assert findings["extra fast"].detail == f"pytest {pytest.__version__}"
    assert findings["extra film"].verdict == "not installed"
    assert findings["extra film"].detail == "needs deepness: pip install 'puffer-policies[film]'"
    assert not any(each.is_problem for each in findings.values())


def test_a_preset_is_built(project, capsys):
    expressions = {
        "good": "LSTMWrapper(Default)",
        "typo": "Default(hiden_size=3)",
        "twice": "LSTMWrapper(LSTMWrapper(Default))",
        "kind": "Default(LSTMWrapper)",
        "gone": "Nope",
    }
    tables = (f"[presets.{name}]\npolicy = '{text}'\n" for name, text in expressions.items())
    (project / "registry.toml").write_text(f"schema = 1\n{''.join(tables)}")
    code, printed, _ = run(capsys, "doctor", "--json")
    verdicts = {each["subject"]: each["verdict"] for each in json.loads(printed)}
    assert code == 1
    assert {name: verdicts[f"project/{name}"] for name in expressions} == {
        name: "ok" if name == "good" else "broken" for name in expressions
    }
