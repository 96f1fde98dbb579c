from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import zipfile
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from textwrap import dedent

# Its first import puts a finder on `sys.meta_path`, which a test that patches the list would lose.
import importlib_metadata  # noqa: F401
import pytest
from fake_packages import site_in, write_files

from puffer_policies import foreign
from puffer_policies.errors import (
    AmbiguousName,
    ConfigError,
    MissingDependency,
    NameTaken,
    PluginError,
    PolicyError,
    PolicyNotFound,
)
from puffer_policies.registry import (
    Registry,
    default_registry,
    discover,
    list_policies,
    list_wrappers,
    packages,
    register_policy,
    register_wrapper,
    set_default_registry,
)
from puffer_policies.registry import default as discovery
from puffer_policies.registry.packages import distributions, packages_with_policies
from puffer_policies.registry.records import Layer

BUILTINS = [
    "Continuous",
    "Convolutional",
    "DeepSets",
    "Default",
    "DiscreteEmbed",
    "EntityAttention",
    "MultiDiscrete",
    "MultiInput",
    "PufferNet",
    "Structured",
]
OURS = "puffer-policies-"
"""How the names of this checkout's plug-ins begin."""

GOOD = {
    "entry_points": {"policies": {"Net": "acme.nets:Net"}, "wrappers": {"Wrap": "acme.nets:Wrap"}},
    "files": {"acme/__init__.py": "", "acme/nets.py": "class Net: ...\nclass Wrap: ..."},
}
PLUGIN = """
    from puffer_policies.hookspecs import hookimpl

    @hookimpl
    def register_policies(registrar):
        registrar.add_policy("Made", "acme_plugin.nets:Made", summary="made by a hook")
        registrar.add_wrapper("Wrapped", "acme_plugin.nets:Wrapped", provides=["x"])
"""


@pytest.fixture
def site(tmp_path):
    with site_in(tmp_path / "site") as site:
        site.folder.mkdir()
        yield site


@pytest.fixture(autouse=True)
def only_what_a_test_installs(monkeypatch):
    """Hide the packages of this checkout: `make setup` installs them beside the core."""

    def others():
        return {name: each for name, each in distributions().items() if OURS not in name}

    monkeypatch.setattr(packages, "distributions", others)


@pytest.fixture
def find(tmp_path):
    """Return `discover` in an empty environment and an empty working directory."""
    (tmp_path / "work").mkdir()

    def find(*, environ=None, cwd=tmp_path / "work", strict=False, plugins=None):
        environ = {"HOME": str(tmp_path / "home"), **(environ or {})}
        return discover(environ=environ, cwd=cwd, strict=strict, plugins=plugins)

    return find


@pytest.fixture
def fresh_default(tmp_path, monkeypatch):
    """Let the default registry be discovered anew, apart from this machine's files."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("PUFFER_POLICIES_REGISTRY", "")
    monkeypatch.setattr(discovery, "_default", type(discovery._default)())


def install_plugin(site, body, *, distribution="acme-plugin"):
    name = distribution.replace("-", "_")
    site.install(
        distribution,
        entry_points={"plugins": {"main": f"{name}.plugin"}},
        files={f"{name}/__init__.py": "", f"{name}/plugin.py": body},
    )


@contextmanager
def out_of_reach(folder):
    """Make a folder that may not be entered, also by the superuser: `stat` below it fails."""
    folder.mkdir()
    os_stat = os.stat

    def stat(path, **options):
        if not isinstance(path, int) and os.fspath(path).startswith(f"{folder}{os.sep}"):
            raise PermissionError(13, "Permission denied", path)
        return os_stat(path, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "stat", stat)
        yield


def error_text(registry):
    return "\n".join(map(str, registry.errors))


# -- packages ------------------------------------------------------------------------------------


def test_the_built_in_names_are_there(find):
    registry = find()
    assert registry.names("policy") == BUILTINS
    assert "LSTMWrapper" in registry.names("wrapper")
    assert registry.get("Policy").name == "Default"
    assert registry.get("Recurrent").name == "LSTMWrapper"
    assert registry.errors == []


@pytest.mark.parametrize("name", [*BUILTINS, "LSTMWrapper"])
def test_a_built_in_can_be_imported_and_tells_what_it_is(find, name):
    record = find().get(name)
    assert record.load().__name__ == name
    assert record.summary.endswith(".")
    assert record.paper.startswith("https://")


def test_a_package_registers_by_entry_points_and_is_not_imported(site, find):
    site.install("Acme_Nets", version="1.2", **GOOD)
    registry = find()
    record = registry.get("Net")
    assert record.qualified_name == "acme-nets/Net"
    assert record.provenance.version == "1.2"
    assert registry.get("Wrap").kind == "wrapper"
    assert "acme" not in sys.modules
    assert record.load().__name__ == "Net"


def test_our_scan_finds_what_the_standard_library_finds(site):
    site.install("acme-nets", **GOOD)
    ours = {
        (entry.group, entry.name, entry.value)
        for package in packages_with_policies()
        for entry in package.entries
    }
    theirs = {
        (entry.group, entry.name, entry.value)
        for group in ("policies", "wrappers", "manifest", "plugins")
        for entry in entry_points(group=f"puffer_policies.{group}")
        if not entry.value.startswith("puffer_policies_")
    }
    assert ours == theirs


def test_a_package_in_an_archive_on_the_path_is_found(tmp_path, monkeypatch, find):
    with zipfile.ZipFile(tmp_path / "acme.zip", "w") as archive:
        archive.writestr("acme_nets-1.2.dist-info/METADATA", "Name: acme-nets\nVersion: 1.2\n")
        archive.writestr(
            "acme_nets-1.2.dist-info/entry_points.txt",
            "# a comment\n[puffer_policies.policies]\nNet = acme:Net\n",
        )
    monkeypatch.syspath_prepend(str(tmp_path / "acme.zip"))
    assert find().get("Net").provenance.version == "1.2"


def test_metadata_that_can_not_be_read_spoils_nothing_else(site, find):
    site.install("acme-nets", **GOOD)
    site.install("bad-nets")
    info = site.folder / "bad_nets-1.0.dist-info"
    (info / "METADATA").write_bytes(b"Name: bad-nets\nVersion: \xff\n")
    (info / "entry_points.txt").write_bytes(
        b"[puffer_policies.policies]\nhalf a line\n\xff = a:B\n"
    )
    registry = find()
    assert registry.get("Net")
    # The file as a whole, and each of its two lines.
    assert [error.distribution for error in registry.errors] == ["bad-nets"] * 3


@pytest.mark.parametrize(
    "text", [b"[foo.plugins]\nbad\n", b"# \xe9\n[foo]\nb = a:\xe9\n", b"[a]\nx=y\n[b\nz = 1"]
)
def test_a_strangers_metadata_is_named_and_torch_does_not_fail_at_it(site, find, text, monkeypatch):
    monkeypatch.delenv("TORCH_DEVICE_BACKEND_AUTOLOAD", raising=False)
    site.install("acme-nets", **GOOD)
    site.install("Bad.Nets", version="3.0", **GOOD)
    (site.folder / "Bad.Nets-3.0.dist-info" / "entry_points.txt").write_bytes(text)
    registry = find()
    assert registry.get("Net").qualified_name == "acme-nets/Net"
    (error,) = registry.errors
    assert (error.distribution, error.version) == ("bad-nets", "3.0")
    assert os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] == "0"


def test_metadata_in_good_order_changes_nothing(site, find, monkeypatch):
    monkeypatch.delenv("TORCH_DEVICE_BACKEND_AUTOLOAD", raising=False)
    site.install("acme-nets", **GOOD)
    path = site.folder / "acme_nets-1.0.dist-info" / "entry_points.txt"
    path.write_text(f"; = 1\n  # a comment\n\n[ foo ]\nbad = acme:my-file.json\n{path.read_text()}")
    assert find().errors == []
    assert "TORCH_DEVICE_BACKEND_AUTOLOAD" not in os.environ


@pytest.mark.parametrize("entry", [Path("/nowhere"), b"/nowhere", "/no\0where", None])
def test_a_path_with_what_is_not_a_folder_is_read(site, find, entry):
    site.install("acme-nets", **GOOD)
    sys.path.insert(0, entry)  # the site takes it off again
    assert find().get("Net")


def test_a_finder_that_fails_hides_no_package_in_a_folder(site, find, monkeypatch):
    class Finder:
        find_spec = staticmethod(lambda *args: None)

        def find_distributions(self, *args):
            raise RuntimeError("out of order")

    site.install("acme-nets", **GOOD)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    assert find().get("Net")


def test_an_entry_point_may_name_an_extra(site, find):
    site.install("acme-nets", entry_points={"policies": {"Net": "acme_late:Net [fast]"}})
    write_files(site.folder, {"acme_late.py": "import not_installed_here"})
    with pytest.raises(MissingDependency) as caught:
        find().get("Net").load()
    assert caught.value.fix == "pip install 'acme-nets[fast]'"


@pytest.mark.parametrize(
    ("name", "value"), [("my net", "a:B"), ("Net", "a.b"), ("Net", "a:"), ("Net", "")]
)
def test_a_malformed_entry_point_is_kept_as_an_error_and_spoils_nothing_else(
    site, find, name, value
):
    site.install("bad-nets", entry_points={"policies": {name: value, "Good": "a:B"}})
    registry = find()
    assert "Good" in registry.names()
    (error,) = registry.errors
    assert error.distribution == "bad-nets"
    assert repr(name) in str(error)


def test_a_second_copy_of_a_package_further_down_the_path_does_not_count(site, tmp_path, find):
    site.install("acme-nets", version="2.0", **GOOD)
    with site_in(tmp_path / "second") as second:
        (tmp_path / "second").mkdir()
        second.install("acme-nets", version="3.0", **GOOD)
        assert find().get("Net").provenance.version == "3.0"
        assert find().errors == []


def test_two_packages_with_one_name_are_both_listed_and_neither_is_the_name(site, find):
    for name in ("acme-nets", "other-nets"):
        site.install(name, entry_points={"policies": {"Net": "a:B"}})
    registry = find()
    assert {"acme-nets/Net", "other-nets/Net"} <= set(registry.names())
    with pytest.raises(AmbiguousName):
        registry.get("Net")


def test_a_package_without_metadata_is_still_read(site, find):
    site.install("acme-nets", **GOOD)
    (site.folder / "acme_nets-1.0.dist-info" / "METADATA").unlink()
    assert find().get("Net").name == "Net"


# -- manifests -----------------------------------------------------------------------------------

MANIFEST = """\
    schema = 1
    [policies.Net]
    target = "acme.nets:Net"
    summary = "a net"
    [deprecated]
    OldNet = "Net"
    """


def test_a_manifest_is_read_without_importing_its_package(site, find):
    site.install(
        "acme-nets",
        entry_points={"manifest": {"acme": "acme:registry.toml"}},
        files={"acme/__init__.py": "1 / 0", "acme/registry.toml": MANIFEST},
    )
    registry = find()
    assert registry.errors == []
    assert registry.get("Net").summary == "a net"
    assert registry.get("Net").provenance.origin.endswith("acme/registry.toml:2")
    assert registry.explain("OldNet").verdict == "deprecated"


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("acme.data:registry.toml", "acme/data/registry.toml"),
        ("acme:data/names.toml", "acme/data/names.toml"),
        ("acme : registry.toml", "acme/registry.toml"),
    ],
)
def test_a_manifest_may_lie_deeper(site, find, value, place):
    site.install(
        "acme-nets",
        entry_points={"manifest": {"acme": value}},
        files={"acme/__init__.py": "", place: MANIFEST},
    )
    assert find().get("Net")


def test_the_manifest_of_an_editable_install_is_found_through_its_path(site, tmp_path, find):
    site.install("acme-nets", entry_points={"manifest": {"acme": "acme:registry.toml"}})
    write_files(tmp_path / "src", {"acme/__init__.py": "", "acme/registry.toml": MANIFEST})
    with site_in(tmp_path / "src"):
        assert find().get("Net")


def test_the_manifest_of_a_namespace_package_is_found_in_any_of_its_folders(site, tmp_path, find):
    site.install("acme-nets", entry_points={"manifest": {"acme": "space.acme:registry.toml"}})
    write_files(site.folder, {"space/other/__init__.py": ""})
    write_files(tmp_path / "src", {"space/acme/registry.toml": MANIFEST})
    with site_in(tmp_path / "src"):
        assert find().get("Net")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("acme:gone.toml", "acme/gone.toml"),
        ("nowhere_at_all:registry.toml", "there is no package 'nowhere_at_all'"),
        ("acme:../registry.toml", "can't be read"),
        ("acme", "can't be read"),
    ],
)
def test_a_manifest_that_is_not_there_is_an_error_of_its_package(site, find, value, expected):
    site.install(
        "acme-nets",
        entry_points={"manifest": {"acme": value}, "policies": {"Net": "a:B"}},
        files={"acme/__init__.py": ""},
    )
    registry = find()
    assert expected in error_text(registry)
    assert registry.errors[0].distribution == "acme-nets"
    assert registry.get("Net")


def test_a_wrong_manifest_is_told_by_line_and_registers_nothing(site, find):
    site.install(
        "acme-nets",
        entry_points={"manifest": {"acme": "acme:registry.toml"}},
        files={"acme/__init__.py": "", "acme/registry.toml": MANIFEST + "zzz = 1\n"},
    )
    registry = find()
    assert "registry.toml:7" in error_text(registry)
    assert registry.names("policy") == BUILTINS
    with pytest.raises(PolicyNotFound, match=r"acme-nets 1\.0"):
        registry.get("Net")


def test_a_name_in_manifest_and_entry_points_is_one_name(site, find):
    site.install(
        "acme-nets",
        entry_points={
            "manifest": {"a": "acme:registry.toml"},
            "policies": {"Net": "acme.nets:Net"},
        },
        files={"acme/__init__.py": "", "acme/registry.toml": MANIFEST},
    )
    registry = find(strict=True)
    assert registry.get("Net").summary == "a net"


# -- plug-ins ------------------------------------------------------------------------------------


def test_a_plugin_registers_by_its_hook(site, find):
    install_plugin(site, PLUGIN)
    registry = find(strict=True)
    assert registry.get("Made").qualified_name == "acme-plugin/Made"
    assert registry.get("Wrapped").provides == ("x",)
    timing = registry.timings["acme-plugin:main"]
    assert timing.seconds > 0
    assert timing.imported_torch is False


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("1 / 0", "Importing it failed: ZeroDivisionError"),
        ("raise SystemExit('no licence')", "SystemExit: no licence"),
        ("import not_there_at_all", "No module named 'not_there_at_all'"),
        ("def broken(:", "SyntaxError"),
        (PLUGIN + "        1 / 0\n", "Its hook register_policies failed: ZeroDivisionError"),
        (PLUGIN + "        raise SystemExit(3)\n", "SystemExit: 3"),
        (PLUGIN.replace("(registrar)", "(registrar, extra)"), "hooks that can't be called"),
        (PLUGIN.replace("summary=", "sumary="), "unexpected keyword argument 'sumary'"),
        ("raise KeyboardInterrupt", "Importing it failed: KeyboardInterrupt"),
        ("raise GeneratorExit", "Importing it failed: GeneratorExit"),
        ("import pytest\npytest.skip('no GPU', allow_module_level=True)", "Skipped: no GPU"),
        ("def __dir__(): raise SystemExit", "It has hooks that can't be called: SystemExit"),
        (PLUGIN + "        raise KeyboardInterrupt\n", "register_policies failed: KeyboardInt"),
        (PLUGIN + "        registrar.records.append(3)\n", "left to add_policy"),
        (PLUGIN + "        del registrar.records\n", "AttributeError"),
        (PLUGIN + "        registrar.add_policy('N', 3)\n", "target should be 'module:Class'"),
        (PLUGIN.replace('"made by a hook"', "None"), "should be a string, got None"),
        (PLUGIN.replace("summary=", "capabilities={}, paper="), "should be Capabilities, got {}"),
    ],
)
def test_a_plugin_that_breaks_breaks_alone_and_leaves_no_name(site, find, body, expected):
    install_plugin(site, body)
    install_plugin(site, PLUGIN.replace("Made", "Other"), distribution="zeta")
    registry = find()
    (error,) = registry.errors
    assert expected in str(error)
    assert "acme-plugin 1.0" in str(error)
    assert (error.distribution, error.version) == ("acme-plugin", "1.0")
    assert error.__cause__ is not None
    assert registry.get("Other")
    with pytest.raises(PolicyNotFound, match=r"may offer it:\n  acme-plugin 1.0"):
        registry.get("Made")


def test_an_import_leaves_the_working_folder_and_the_path_alone(site, find, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    rude = "import os, sys\nos.chdir('/')\nsys.path[:] = ['/elsewhere']\n"
    install_plugin(site, rude + dedent(PLUGIN))
    assert find().get("Made")
    assert Path.cwd() == tmp_path
    assert set(before) <= set(sys.path)


def test_an_import_that_takes_long_is_named_while_it_runs(site, find, monkeypatch, capsys):
    monkeypatch.setattr(foreign, "IMPATIENCE", 0.01)
    install_plugin(site, "import time\ntime.sleep(0.2)\n" + dedent(PLUGIN))
    assert find().get("Made")
    assert "still importing acme_plugin.plugin (plug-in 'main' of acme-plugin 1.0)" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("body", ["{}", "try:\n    {}\nexcept BaseException:\n    pass"])
def test_ctrl_c_ends_the_command_and_names_the_package(site, find, body):
    install_plugin(site, "import signal\n" + body.format("signal.raise_signal(signal.SIGINT)"))
    with pytest.raises(KeyboardInterrupt, match=r"importing .*'main' of acme-plugin 1.0"):
        find()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_misspelt_hook_is_reported_with_the_nearest_and_the_rest_works(site, find):
    misspelt = "\n    @hookimpl\n    def register_polices(registrar): ...\n"
    install_plugin(site, PLUGIN + misspelt)
    registry = find()
    assert "'register_polices', which does not exist" in error_text(registry)
    assert "Did you mean 'register_policies'" in error_text(registry)
    assert registry.get("Made")


def test_a_record_that_is_wrong_does_not_take_the_others_along(site, find):
    install_plugin(site, PLUGIN.replace('"Wrapped",', '"not a name",'))
    registry = find()
    assert "'not a name'" in error_text(registry)
    assert registry.get("Made")


def test_a_plugin_may_be_an_object(site, find):
    body = PLUGIN.replace("    @hookimpl\n    def", "    class P:\n      @hookimpl\n      def")
    body = body.replace("(registrar):", "(self, registrar):") + "\n    plugin = P()\n"
    site.install(
        "acme-plugin",
        entry_points={"plugins": {"main": "acme_plugin.plugin:plugin"}},
        files={"acme_plugin/__init__.py": "", "acme_plugin/plugin.py": body},
    )
    assert find(strict=True).get("Made")


def test_a_plugin_is_told_of_every_policy_that_was_built(site, find):
    install_plugin(
        site,
        """
        from puffer_policies.hookspecs import hookimpl
        built = []

        @hookimpl
        def policy_built(policy, spec):
            built.append((policy, spec))
        """,
    )
    registry = find(strict=True)
    registry.hooks.policy_built("policy", "spec")
    assert sys.modules["acme_plugin.plugin"].built == [("policy", "spec")]
    # The hooks go with the registry to a worker.
    pickle.loads(pickle.dumps(registry)).hooks.policy_built("again", "spec")
    assert len(sys.modules["acme_plugin.plugin"].built) == 2


def test_a_hook_that_raises_after_a_build_is_kept_and_warned_of(site, find):
    body = """
        from puffer_policies.hookspecs import hookimpl

        @hookimpl
        def policy_built(policy, spec):
            1 / 0
        """
    install_plugin(site, body)
    registry = find()
    with pytest.warns(RuntimeWarning, match="Its hook policy_built failed: ZeroDivisionError"):
        registry.hooks.policy_built("policy", "spec")
    assert "policy_built" in error_text(registry)
    with pytest.raises(PluginError):
        find(strict=True).hooks.policy_built("policy", "spec")


# -- switches ------------------------------------------------------------------------------------


def test_an_empty_list_loads_no_package(site, find):
    site.install("acme-nets", **GOOD)
    install_plugin(site, "1 / 0")
    for registry in (find(environ={"PUFFER_POLICIES_PLUGINS": ""}), find(plugins=[])):
        assert registry.names("policy") == BUILTINS
        assert registry.errors == []
    assert "acme_plugin" not in sys.modules


@pytest.mark.parametrize("listed", ["acme-nets", " Acme.Nets , "])
def test_a_list_loads_only_its_packages(site, find, listed):
    site.install("acme-nets", **GOOD)
    install_plugin(site, "1 / 0")
    registry = find(environ={"PUFFER_POLICIES_PLUGINS": listed})
    assert "Net" in registry.names()
    assert registry.errors == []


def test_a_listed_package_that_is_not_there_is_reported_with_the_nearest(site, find):
    site.install("acme-nets", **GOOD)
    registry = find(environ={"PUFFER_POLICIES_PLUGINS": "acme-net"})
    assert "'acme-net'" in error_text(registry)
    assert "Did you mean 'acme-nets'" in error_text(registry)
    with pytest.raises(ConfigError, match="should be a list"):
        find(plugins="acme-nets")


@pytest.mark.parametrize("switch", [{"strict": True}, {"environ": {"PUFFER_POLICIES_STRICT": "1"}}])
def test_strict_raises_what_is_kept_otherwise(site, find, switch):
    install_plugin(site, "1 / 0")
    with pytest.raises(PluginError, match="ZeroDivisionError"):
        find(**switch)
    install_plugin(site, "import gone_too", distribution="zeta")
    with pytest.raises(PluginError, match=r"2 problems[\s\S]*ZeroDivisionError[\s\S]*gone_too"):
        find(**switch)


def test_strict_raises_clashes_unless_they_are_settled(site, tmp_path, find):
    for name in ("acme-nets", "other-nets"):
        site.install(name, entry_points={"policies": {"Net": "a:B"}})
    with pytest.raises(AmbiguousName, match="2 packages offer 'Net'"):
        find(strict=True)
    write_files(tmp_path / "work", {"registry.toml": "schema = 1\n[resolve]\nNet = 'acme-nets'\n"})
    assert find(strict=True).get("Net").provenance.distribution == "acme-nets"


# -- files ---------------------------------------------------------------------------------------

OWN = "schema = 1\n[policies.Mine]\ntarget = 'my_nets_here:Mine'\n"


def test_a_project_file_is_found_upwards_and_its_classes_beside_it(tmp_path, find):
    write_files(tmp_path, {"p/registry.toml": OWN, "p/my_nets_here.py": "class Mine: ..."})
    (tmp_path / "p" / "deep" / "er").mkdir(parents=True)
    with site_in(tmp_path / "none"):
        record = find(cwd=tmp_path / "p" / "deep" / "er").get("Mine")
        assert record.qualified_name == "project/Mine"
        assert record.provenance.origin == f"{tmp_path / 'p' / 'registry.toml'}:2"
        assert record.load().__name__ == "Mine"


def test_a_package_own_manifest_is_not_taken_for_a_project_file(tmp_path, find):
    write_files(
        tmp_path,
        {"registry.toml": OWN, "pkg/registry.toml": OWN.replace("\n", "\ndistribution = 'a'\n", 1)},
    )
    (tmp_path / "pkg" / "src").mkdir()
    registry = find(cwd=tmp_path / "pkg" / "src")
    assert registry.get("Mine").provenance.origin == f"{tmp_path / 'registry.toml'}:2"


def test_another_tool_file_is_skipped_and_said_so(tmp_path, find):
    write_files(tmp_path, {"registry.toml": "[crates]\nio = 1\n"})
    registry = find(cwd=tmp_path)
    assert registry.names("policy") == BUILTINS
    assert "has no schema, so it was taken for another tool's file" in error_text(registry)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"[a\n", "this is not TOML"),
        (b"schema = 1\n# \xe9", "is not UTF-8"),
        (b"schema = '1.0'\n", "schema should be 1"),
        (b"[schema]\n", "schema should be 1"),
        (b"schema = 7\n", "the file has schema 7"),
        (b"schema = 1\n[servers]\n", "unknown key"),
        (b"schema = 1\n[removed]\nDefault = 'gone'\n", "can't be called 'Default'"),
        (b"schema = 1\n[policies.Default]\ntarget = 'a:B'\n", "can't be called 'Default'"),
    ],
)
def test_a_foreign_file_further_up_names_the_way_out(tmp_path, find, content, expected):
    (tmp_path / "registry.toml").write_bytes(content)
    with pytest.raises((ConfigError, NameTaken), match=expected) as caught:
        find(cwd=tmp_path / "work")
    assert ("override" in caught.value.fix) == (b"[policies" in content)
    assert "If the file is not yours, set PUFFER_POLICIES_REGISTRY to nothing" in caught.value.fix
    assert find(environ={"PUFFER_POLICIES_REGISTRY": ""}).names("policy") == BUILTINS


@pytest.mark.parametrize("variable", ["HOME", "XDG_CONFIG_HOME"])
@pytest.mark.parametrize("name", ["locked", "n" * 300, "a/" * 3000, "nul\0"])
def test_a_folder_that_can_not_be_entered_has_no_file(tmp_path, find, variable, name):
    with out_of_reach(tmp_path / "locked"):
        registry = find(environ={variable: str(tmp_path / name)}, cwd=tmp_path / "locked" / "in")
    assert registry.names("policy") == BUILTINS
    assert registry.errors == []


def test_a_home_that_does_not_exist_is_named_as_it_is(tmp_path, find):
    with pytest.raises(ConfigError, match="there is no file"):
        find(environ={"PUFFER_POLICIES_REGISTRY": "~nobody-at-all/registry.toml"})


def test_the_variable_names_the_file_or_none(tmp_path, find):
    write_files(tmp_path, {"registry.toml": OWN, "else.toml": OWN.replace("Mine", "Other")})
    variable = "PUFFER_POLICIES_REGISTRY"
    assert "Other" in find(environ={variable: str(tmp_path / "else.toml")}, cwd=tmp_path).names()
    assert "Other" in find(environ={variable: "else.toml"}, cwd=tmp_path).names()
    assert find(environ={variable: ""}, cwd=tmp_path).names("policy") == BUILTINS
    with pytest.raises(ConfigError, match=f"{variable} names 'gone.toml'"):
        find(environ={variable: "gone.toml"}, cwd=tmp_path)


def test_the_project_wins_over_the_user_and_says_so(tmp_path, find):
    user = {"home/.config/puffer_policies/registry.toml": OWN}
    write_files(tmp_path, user)
    assert find().get("Mine").qualified_name == "user/Mine"
    write_files(tmp_path, {"work/registry.toml": OWN})
    with pytest.raises(NameTaken, match=r"project/Mine[\s\S]*override = true"):
        find()
    write_files(tmp_path, {"work/registry.toml": OWN + "override = true\n"})
    registry = find()
    assert registry.get("Mine").qualified_name == "project/Mine"
    assert "user/Mine" in registry.names()


def test_the_user_folder_follows_the_xdg_variable(tmp_path, find):
    write_files(tmp_path, {"conf/puffer_policies/registry.toml": OWN})
    assert "Mine" in find(environ={"XDG_CONFIG_HOME": str(tmp_path / "conf")}).names()
    assert "Mine" not in find(environ={"XDG_CONFIG_HOME": "conf"}, cwd=tmp_path).names()


def test_a_file_that_is_user_and_project_file_is_read_once(tmp_path, find):
    write_files(tmp_path, {"home/.config/puffer_policies/registry.toml": OWN})
    registry = find(cwd=tmp_path / "home" / ".config" / "puffer_policies")
    assert registry.get("Mine").qualified_name == "user/Mine"


def test_a_wrong_project_file_is_raised_by_line(tmp_path, find):
    write_files(tmp_path, {"work/registry.toml": "schema = 1\n[polices.Net]\n"})
    with pytest.raises(ConfigError, match=r"registry.toml:2: .*Did you mean 'policies'"):
        find()


def test_a_blocked_package_is_listed_but_its_plugin_never_imported(site, tmp_path, find):
    site.install("acme-nets", **GOOD)
    install_plugin(site, "1 / 0")
    block = "schema = 1\n[block]\ndistributions = ['Acme_Plugin', 'acme-nets']\n"
    write_files(tmp_path, {"work/registry.toml": block})
    registry = find(strict=True)
    assert "acme_plugin" not in sys.modules
    assert "Net" not in registry.names()
    assert registry.explain("Net").verdict == "blocked"
    assert "registry.toml:3" in "\n".join(registry.explain("Net").lines)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("acme-nets = '>=2'", "Acme-nets >=2 is required, and 1.0 is installed"),
        ("gone-nets = '>=2'", "Gone-nets >=2 is required, and it is not installed"),
    ],
)
def test_a_version_limit_that_is_missed_is_reported_with_the_cure(
    site, tmp_path, find, limit, expected
):
    site.install("acme-nets", **GOOD)
    write_files(tmp_path, {"work/registry.toml": f"schema = 1\n[require]\n{limit}\n"})
    registry = find()
    assert expected in error_text(registry)
    assert "pip install '" in error_text(registry)
    if limit.startswith("acme"):
        with pytest.raises(PolicyNotFound, match=r"is required[\s\S]*registry.toml:3"):
            registry.get("Net")
    else:
        assert registry.get("Net")


def test_a_version_limit_that_is_kept_says_nothing(site, tmp_path, find):
    site.install("acme-nets", version="2.0rc1", **GOOD)
    write_files(tmp_path, {"work/registry.toml": "schema = 1\n[require]\nAcme_Nets = '>=1,<3'\n"})
    assert find(strict=True).get("Net")


# -- the default registry and decorators ---------------------------------------------------------


def test_the_default_registry_is_one_for_every_thread(fresh_default):
    registries = []
    threads = [
        threading.Thread(target=lambda: registries.append(default_registry())) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, registries))) == 1
    assert len(registries) == 8


def test_decorating_in_one_thread_does_not_wait_for_another_that_discovers(
    fresh_default, monkeypatch
):
    started, decorated = threading.Event(), threading.Event()
    fill = discovery.fill

    def slow(registry):
        started.set()
        assert decorated.wait(timeout=60)
        fill(registry)

    monkeypatch.setattr(discovery, "fill", slow)
    asking = threading.Thread(target=default_registry)
    asking.start()
    assert started.wait(timeout=60)
    register_policy(type("Meanwhile", (), {}))
    decorated.set()
    asking.join()
    assert "Meanwhile" in list_policies()


def test_decorating_before_anybody_asks_reads_nothing(fresh_default, monkeypatch):
    monkeypatch.setattr(discovery, "fill", lambda registry: pytest.fail("discovered"))

    @register_policy
    class Early:
        """An early bird. It sings."""


def test_a_decorated_class_has_a_name_a_summary_and_a_place(fresh_default):
    @register_policy
    class Early:
        """An early bird.

        It sings.
        """

    @register_policy(name="Renamed", summary="told", actions=["box"], defaults={"a": 1})
    class Late:
        pass

    @register_wrapper(provides=["recurrent"])
    class Around:
        pass

    registry = default_registry()
    assert registry.get("Early").load() is Early
    assert registry.get("Early").summary == "An early bird."
    assert registry.get("Early").qualified_name == "local/Early"
    assert "test_discovery.py:" in registry.get("Early").provenance.origin
    assert registry.get("Renamed").capabilities.actions == ("box",)
    assert registry.get("Renamed").defaults == {"a": 1}
    assert registry.get("Around").provides == ("recurrent",)
    assert {"Early", "Renamed"} <= set(list_policies())
    assert "Around" in list_wrappers()


def test_a_decorated_class_can_replace_a_built_in_only_on_purpose(fresh_default):
    default_registry()
    with pytest.raises(NameTaken, match="pass override=True"):
        register_policy(type("Default", (), {}))
    mine = register_policy(override=True)(type("Default", (), {}))
    assert default_registry().get("Default").load() is mine


def test_a_class_may_be_called_policy_as_pufferlib_users_do(fresh_default):
    @register_policy
    class Policy:
        pass

    assert default_registry().get("Policy").load() is Policy


def test_a_failed_first_question_can_be_asked_again(fresh_default):
    early = register_policy(type("Default", (), {}))
    for _ in range(2):
        with pytest.raises(NameTaken):
            default_registry()
    assert early.__name__ == "Default"


def test_a_registry_of_ones_own_keeps_the_default_clean(fresh_default):
    registry = Registry()
    register_policy(registry=registry)(type("Own", (), {}))
    assert registry.names() == ["Own"]
    assert "Own" not in list_policies()


def test_a_plugin_may_decorate_and_ask_while_it_is_discovered(site, fresh_default):
    install_plugin(
        site,
        """
        from puffer_policies.registry import register_policy
        from puffer_policies.registry import list_policies

        @register_policy
        class Decorated: ...

        assert "Default" in list_policies()
        """,
    )
    registry = default_registry()
    assert registry.errors == []
    assert registry.get("Decorated").provenance.layer is Layer.PLUGIN
    assert registry.get("Decorated").qualified_name == "acme-plugin/Decorated"


def test_a_decorated_class_belongs_to_its_package_whoever_imported_it_first(site, fresh_default):
    install_plugin(
        site,
        """
        from puffer_policies.registry import register_policy

        @register_policy
        class Decorated: ...
        """,
    )
    __import__("acme_plugin.plugin")
    assert default_registry().get("Decorated").qualified_name == "acme-plugin/Decorated"


def test_a_worker_can_be_given_a_registry(fresh_default):
    registry = Registry()
    register_policy(registry=registry)(type("Own", (), {}))
    set_default_registry(registry)
    assert default_registry() is registry
    assert list_policies() == ["Own"]
    set_default_registry(None)
    assert list_policies() == BUILTINS


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*", ["Default", "acme-nets/Net", "other-nets/Net"]),
        ("def*", ["Default"]),
        ("NET", ["acme-nets/Net", "other-nets/Net"]),
        ("acme*/*", ["acme-nets/Net"]),
        ("x*", []),
    ],
)
def test_a_pattern_filters_bare_and_qualified_names(pattern, names, site, find):
    for name in ("acme-nets", "other-nets"):
        site.install(name, entry_points={"policies": {"Net": "a:B"}})
    registry = find()
    registry.block(names=[name for name in BUILTINS if name != "Default"], origin="x")
    assert list_policies(pattern, registry=registry) == names


def test_a_list_for_an_env_is_refused_with_the_function_for_it():
    with pytest.raises(PolicyError, match=r"should be a string such as[\s\S]*fits\(env\)"):
        list_policies(object(), registry=Registry())


def test_decorating_something_else_is_refused_with_the_cure():
    with pytest.raises(PolicyError, match=r"register_policy\(name='MyNet'\)"):
        register_policy("MyNet")
    with pytest.raises(PolicyError, match="actions should be a list of strings"):
        register_policy(actions="box")
