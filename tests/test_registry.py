from __future__ import annotations

import itertools
import multiprocessing
import pickle
import random
import threading
import warnings

import pytest

from puffer_policies.errors import (
    AmbiguousName,
    NameTaken,
    PluginError,
    PolicyDeprecationWarning,
    PolicyError,
    PolicyNotFound,
    PolicyRemoved,
)
from puffer_policies.registry import Registry
from puffer_policies.registry.records import (
    Layer,
    Pointer,
    PolicyRecord,
    Preset,
    Provenance,
    WrapperRecord,
)

BUILTIN = Provenance(layer=Layer.BUILTIN, distribution="puffer-policies", origin="registry.toml:1")
ACME = Provenance(layer=Layer.PLUGIN, distribution="acme-nets", version="1.2", origin="acme:7")
OTHER = Provenance(layer=Layer.PLUGIN, distribution="other-nets", version="0.3", origin="other:9")
USER = Provenance(layer=Layer.USER, distribution="user", origin="user.toml:4")
PROJECT = Provenance(layer=Layer.PROJECT, distribution="project", origin="project.toml:5")
LOCAL = Provenance(layer=Layer.PROCESS, distribution="local", origin="train.py:12")


class TopLevel:
    """A class that a worker can import."""


def policy(name, place, **fields):
    target = fields.pop("target", f"{place.distribution.replace('-', '_')}:{name}")
    return PolicyRecord(name=name, target=target, provenance=place, **fields)


def wrapper(name, place):
    return WrapperRecord(name=name, target=f"x:{name}", provenance=place)


def pointer(kind, name, text, place=BUILTIN):
    return Pointer(name=name, kind=kind, text=text, provenance=place)


def registry_of(*entries):
    registry = Registry()
    for entry in entries:
        registry.alias(entry) if isinstance(entry, Pointer) else registry.add(entry)
    return registry


# -- names ---------------------------------------------------------------------------------------


def test_a_record_is_found_by_its_bare_and_by_its_qualified_name():
    record = policy("Net", ACME)
    registry = registry_of(record)
    assert registry.get("Net") is record
    assert registry.get("acme-nets/Net") is record


@pytest.mark.parametrize("spelling", ["Acme_Nets/Net", "ACME.NETS/Net", "acme--nets/Net"])
def test_distributions_are_compared_as_package_installers_do(spelling):
    assert registry_of(policy("Net", ACME)).get(spelling).name == "Net"


ENTRIES = [
    policy("Net", BUILTIN),
    policy("Net", ACME),
    policy("Net", OTHER),
    policy("Conv", ACME),
    policy("Conv", OTHER),
    policy("Net", USER, override=True),
    policy("Net", LOCAL, override=True),
    pointer("alias", "Old", "Net"),
    policy("Old", PROJECT),
]


def test_the_result_does_not_depend_on_the_order_of_registration():
    answers = set()
    for seed in range(40):
        order = random.Random(seed).sample(ENTRIES, len(ENTRIES))
        registry = registry_of(*order)
        answers.add(
            (
                tuple(registry.names()),
                registry.get("Net"),
                registry.get("Old"),
                str(registry.explain("Conv").lines),
            )
        )
    assert len(answers) == 1
    assert answers.pop()[1].provenance is LOCAL


def test_two_packages_with_one_name_make_it_ambiguous_and_name_both_cures():
    registry = registry_of(policy("Net", ACME), policy("Net", OTHER))
    with pytest.raises(AmbiguousName) as caught:
        registry.get("Net")
    text = str(caught.value)
    for part in ("acme-nets/Net", "acme-nets 1.2", "acme:7", "other-nets/Net", "other:9"):
        assert part in text
    assert '[resolve]\n  Net = "acme-nets"' in text
    assert registry.names() == ["acme-nets/Net", "other-nets/Net"]
    assert registry.get("other-nets/Net").provenance is OTHER


def test_a_settled_name_goes_to_its_package():
    registry = registry_of(policy("Net", ACME), policy("Net", OTHER), policy("Net", BUILTIN))
    registry.settle("Net", "Other_Nets", origin="project.toml:3")
    assert registry.get("Net").provenance is OTHER
    assert "project.toml:3" in "\n".join(registry.explain("Net").lines)


def test_a_name_settled_for_a_package_that_lacks_it_is_an_error_that_names_the_line():
    registry = registry_of(policy("Net", ACME), policy("Net", OTHER))
    registry.settle("Net", "third", origin="project.toml:3")
    with pytest.raises(PolicyNotFound, match=r"'third' by project.toml:3"):
        registry.get("Net")
    assert registry.explain("Net").verdict == "broken"


def test_installing_a_package_takes_no_name_from_a_built_in():
    registry = registry_of(policy("Net", ACME), policy("Net", BUILTIN))
    assert registry.get("Net").provenance is BUILTIN
    assert registry.names() == ["Net", "acme-nets/Net"]
    assert registry.explain("acme-nets/Net").verdict == "shadowed"


@pytest.mark.parametrize("place", [USER, PROJECT, LOCAL])
def test_what_the_user_registers_wins_over_packages_without_a_word(place):
    registry = registry_of(policy("Net", ACME), policy("Net", place))
    assert registry.get("Net").provenance is place


@pytest.mark.parametrize("place", [USER, PROJECT, LOCAL])
def test_replacing_a_built_in_needs_override(place):
    registry = registry_of(policy("Net", BUILTIN))
    with pytest.raises(NameTaken) as caught:
        registry.add(policy("Net", place))
    assert place.origin in caught.value.problem
    assert "registry.toml:1" in caught.value.problem
    assert registry.get("Net").provenance is BUILTIN
    registry.add(policy("Net", place, override=True))
    assert registry.get("Net").provenance is place
    assert "puffer-policies/Net" in registry.names()


def test_a_package_can_not_override():
    with pytest.raises(PolicyError, match="a package can't replace a name"):
        Registry().add(policy("Net", ACME, override=True))


@pytest.mark.parametrize("name", ["user", "project", "local", "puffer-policies"])
def test_a_package_can_not_pose_as_the_user(name):
    place = Provenance(layer=Layer.PLUGIN, distribution=name)
    with pytest.raises(PolicyError, match="reserved"):
        Registry().add(policy("Net", place, target="x:Net"))


def test_one_package_can_not_give_one_name_to_two_classes():
    registry = registry_of(policy("Net", ACME))
    with pytest.raises(NameTaken):
        registry.add(policy("Net", ACME, target="acme:Another"))
    with pytest.raises(NameTaken):
        registry.add(wrapper("Net", ACME))


def test_a_package_may_say_the_same_twice():
    registry = registry_of(policy("Net", ACME, summary="told"), policy("Net", ACME))
    assert registry.get("Net").summary == "told"


def test_a_class_that_is_defined_again_replaces_itself():
    first, second = type("Net", (), {}), type("Net", (), {})
    registry = registry_of(policy("Net", LOCAL, loaded=first), policy("Net", LOCAL, loaded=second))
    assert registry.get("Net").load() is second


def test_every_offence_of_a_record_is_reported_at_once():
    wrong = policy("my net", LOCAL, target="nowhere", defaults={"a b": 1, "c": object()})
    with pytest.raises(PolicyError) as caught:
        Registry().add(wrong)
    for part in ("'my net'", "'nowhere'", "'a b'", "c should be plain data", "train.py:12"):
        assert part in str(caught.value)


# -- aliases, deprecations, tombstones -----------------------------------------------------------


def test_an_alias_leads_to_its_record():
    registry = registry_of(policy("Net", BUILTIN), pointer("alias", "Policy", "Net"))
    assert registry.get("Policy").name == "Net"
    assert registry.get("puffer-policies/Policy").name == "Net"
    assert registry.explain("Policy").verdict == "alias"
    assert registry.names() == ["Net"]


def test_an_alias_makes_room_for_a_class_of_the_user():
    registry = registry_of(policy("Net", BUILTIN), pointer("alias", "Policy", "Net"))
    registry.add(policy("Policy", LOCAL))
    assert registry.get("Policy").provenance is LOCAL
    assert registry.get("puffer-policies/Policy").name == "Net"


def test_a_package_takes_no_name_from_a_built_in_alias():
    registry = registry_of(policy("Net", BUILTIN), pointer("alias", "Policy", "Net"))
    registry.add(policy("Policy", ACME))
    assert registry.get("Policy").name == "Net"
    assert registry.names() == ["Net", "acme-nets/Policy"]


def test_an_alias_of_a_package_means_the_package_own_record():
    registry = registry_of(
        policy("Net", BUILTIN), policy("Net", ACME), pointer("alias", "Quick", "Net", ACME)
    )
    assert registry.get("Quick").provenance is ACME


def test_a_deprecated_name_warns_and_names_its_successor_and_place():
    registry = registry_of(policy("Net", ACME), pointer("deprecated", "OldNet", "Net", ACME))
    with pytest.warns(PolicyDeprecationWarning, match=r"'OldNet' is deprecated.*'Net'.*acme:7"):
        assert registry.get("OldNet").name == "Net"


def test_explaining_a_deprecated_name_does_not_warn():
    registry = registry_of(policy("Net", ACME), pointer("deprecated", "OldNet", "Net", ACME))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert registry.explain("OldNet").verdict == "deprecated"


def test_a_tombstone_gives_its_reason():
    registry = registry_of(pointer("removed", "OldNet", "never reproduced", ACME))
    with pytest.raises(PolicyRemoved, match=r"acme-nets 1.2: never reproduced"):
        registry.get("OldNet")


def test_a_chain_of_aliases_is_followed_to_a_tombstone():
    registry = registry_of(pointer("alias", "A", "B"), pointer("removed", "B", "gone"))
    with pytest.raises(PolicyRemoved, match="gone"):
        registry.get("A")


@pytest.mark.parametrize("links", [["A"], ["B", "A"], ["B", "C", "A"]])
def test_aliases_in_a_circle_are_an_error_and_end(links):
    names = ["A", *links]
    registry = registry_of(*(pointer("alias", a, b) for a, b in itertools.pairwise(names)))
    with pytest.raises(PolicyNotFound) as caught:
        registry.get("A")
    way = " -> ".join(map(repr, names))
    assert caught.value.problem == f"'A' leads nowhere: {way}, which is a circle."


def test_an_alias_of_nothing_names_its_line():
    registry = registry_of(pointer("alias", "A", "Gone", USER))
    with pytest.raises(PolicyNotFound) as caught:
        registry.get("A")
    assert "there is no 'Gone'" in caught.value.problem
    assert "user.toml:4" in caught.value.fix


# -- not found -----------------------------------------------------------------------------------


def test_an_unknown_name_gets_near_names():
    registry = registry_of(policy("Default", BUILTIN), policy("Convolutional", BUILTIN))
    with pytest.raises(PolicyNotFound, match="Did you mean 'Default'"):
        registry.get("Defualt")
    with pytest.raises(PolicyNotFound, match="Did you mean 'Default'"):
        registry.get("default")


def test_near_names_include_aliases_and_qualified_names():
    registry = registry_of(
        policy("Net", ACME), policy("Net", OTHER), pointer("alias", "Recurrent", "Net", ACME)
    )
    assert "Recurrent" in registry.explain("Recurent").suggestions
    assert "acme-nets/Net" in registry.explain("acme-net/Net").suggestions
    with pytest.raises(PolicyNotFound, match="'acme-nets/Net'"):
        registry.get("acme-net/Net")


def test_a_name_like_no_other_gets_the_list():
    with pytest.raises(PolicyNotFound, match="The registered names are Default"):
        registry_of(policy("Default", BUILTIN)).get("Transformer")
    with pytest.raises(PolicyNotFound, match="Nothing is registered"):
        Registry().get("Transformer")


def test_an_unknown_name_mentions_plug_ins_that_failed():
    registry = registry_of(policy("Default", BUILTIN))
    registry.errors.append(
        PluginError("it needs numba.\nmore", distribution="acme-nets", version="2")
    )
    with pytest.raises(PolicyNotFound, match=r"may offer it:\n  acme-nets 2: it needs numba"):
        registry.get("AcmeNet")
    assert registry.explain("AcmeNet").verdict == "not found"
    assert registry.explain("acme-nets/AcmeNet").verdict == "broken"
    assert registry.explain("other/AcmeNet").failures == ()
    assert registry.get("Default")


def test_a_wrapper_asked_for_as_a_policy_says_how_to_write_it():
    registry = registry_of(wrapper("LSTMWrapper", BUILTIN), policy("Default", BUILTIN))
    with pytest.raises(PolicyNotFound, match=r"is a wrapper, not a policy[\s\S]*LSTMWrapper\(Def"):
        registry.get("LSTMWrapper", kind="policy")


def test_a_policy_asked_for_as_a_wrapper_says_how_to_write_it():
    registry = registry_of(policy("Net", BUILTIN), wrapper("Wrap", BUILTIN))
    with pytest.raises(PolicyNotFound, match=r"is a policy, not a wrapper[\s\S]*Wrap\(Net\)"):
        registry.get("Net", kind="wrapper")


def test_an_import_path_is_told_how_to_become_a_name():
    with pytest.raises(PolicyNotFound, match=r"\[policies.Net\]\n  target = \"acme.nets:Net\""):
        Registry().get("acme.nets:Net")


def test_an_expression_is_told_from_a_name():
    with pytest.raises(PolicyNotFound, match="That is an expression"):
        Registry().get("Wrap(Net)")


def test_a_preset_is_told_from_a_policy():
    registry = Registry()
    registry.add_preset(Preset(name="small", policy="Default", provenance=BUILTIN))
    with pytest.raises(PolicyNotFound, match="'small' is a preset, not a policy"):
        registry.get("small")
    explanation = registry.explain("small")
    assert (explanation.verdict, explanation.suggestions) == ("preset", ())
    assert "Default" in explanation.lines[0]


@pytest.mark.parametrize("name", ["", " ", "/", "a/", "/A", "a/b/C", "\n", "Net\0", "Ünet"])
def test_odd_names_are_simply_not_found(name):
    with pytest.raises(PolicyNotFound):
        registry_of(policy("Net", BUILTIN)).get(name)


@pytest.mark.parametrize("name", [None, 3, TopLevel, ["Net"]])
def test_what_is_no_string_is_no_name(name):
    with pytest.raises(PolicyError, match="A name should be a string"):
        Registry().get(name)


# -- rules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    [{"names": ["Net"]}, {"names": ["Acme_Nets/Net"]}, {"distributions": ["ACME.nets"]}],
)
def test_a_blocked_record_is_refused_with_the_line_that_blocks_it(rule):
    registry = registry_of(policy("Net", ACME))
    registry.block(**rule, origin="project.toml:9")
    for name in ("Net", "acme-nets/Net"):
        with pytest.raises(PolicyNotFound, match=r"is blocked[\s\S]*project.toml:9"):
            registry.get(name)
    assert registry.names() == []
    assert len(registry.records()) == 1
    assert registry.explain("Net").verdict == "blocked"


def test_blocking_one_rival_settles_the_name():
    registry = registry_of(policy("Net", ACME), policy("Net", OTHER))
    registry.block(distributions=["acme-nets"], origin="x")
    assert registry.get("Net").provenance is OTHER


def test_a_package_of_the_wrong_version_is_refused_and_gives_its_names_to_nobody():
    registry = registry_of(policy("Conv", ACME), policy("Net", OTHER))
    registry.refuse("acme-nets", "acme-nets >=2 is required, and 1.2 is installed", origin="p:1")
    with pytest.raises(PolicyNotFound, match=r"acme-nets >=2 is required.*\(p:1\)"):
        registry.get("Conv")
    assert registry.names() == ["Net"]


# -- presets, hand-over --------------------------------------------------------------------------


def test_presets_of_the_strongest_layer_have_the_bare_name():
    registry = Registry()
    for place in (ACME, PROJECT, OTHER):
        registry.add_preset(Preset(name="small", policy="Net", provenance=place))
        registry.add_preset(Preset(name=f"p{place.layer}", policy="Net", provenance=place))
    assert registry.presets["small"].provenance is PROJECT
    assert registry.presets["acme-nets/small"].provenance is ACME
    assert "p0" not in registry.presets
    assert "other-nets/p0" in registry.presets


def answers(registry):
    return (
        registry.names(),
        registry.records(),
        {name: registry.explain(name).lines for name in ("Net", "Gone", "Local", "Nope")},
        [error.distribution for error in registry.errors],
    )


def handed_over():
    registry = registry_of(
        policy("Net", ACME),
        policy("Net", OTHER),
        pointer("removed", "Gone", "it went"),
        policy("Local", LOCAL, target=f"{__name__}:TopLevel", loaded=TopLevel),
    )
    registry.settle("Net", "acme-nets", origin="project.toml:1")
    registry.errors.append(PluginError("broken", distribution="third"))
    return registry


def answer_in_worker(registry, results):
    results.put((answers(registry), registry.get("Local").load().__name__))


def test_a_spawned_worker_resolves_every_name_as_its_parent():
    registry = handed_over()
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    worker = context.Process(target=answer_in_worker, args=(registry, results))
    worker.start()
    explanations, loaded = results.get()
    worker.join()
    results.close()
    assert worker.exitcode == 0
    assert explanations == answers(registry)
    assert loaded == "TopLevel"


def test_a_pickled_registry_names_classes_and_holds_none():
    registry = pickle.loads(pickle.dumps(handed_over()))
    assert registry.get("Local").loaded is None
    assert registry.get("Local").load() is TopLevel


def test_pickling_changes_nothing_here():
    registry = handed_over()
    pickle.dumps(registry)
    assert registry.get("Local").loaded is TopLevel


def test_a_class_made_in_a_function_can_not_be_handed_over_and_is_named():
    class Inner:
        pass

    registry = registry_of(policy("Net", LOCAL, loaded=Inner))
    with pytest.raises(PolicyError, match=r"'local/Net' can't be handed to another process"):
        pickle.dumps(registry)


def test_a_look_up_imports_nothing():
    assert registry_of(policy("Net", ACME, target="no_such_module:Net")).get("Net")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnets/ResNet", "If you trust 'resnets', install it: pip install resnets"),
        ("project/ResNet", "set PUFFER_POLICIES_REGISTRY to the file"),
        ("user/ResNet", "registry.toml"),
        ("local/ResNet", "--import MODULE"),
        ("S5Wrapper", "puffer-policies-memory has it. If you trust 'puffer-policies-memory', inst"),
        ("acme-nets/Nett", "Did you mean 'Net'?"),
        ("acme-net/Net", "install it: pip install acme-net"),
        ("Res", "Did you mean 'ResidualNetwork'?"),
    ],
)
def test_a_missing_name_says_where_to_get_it(name, expected):
    registry = registry_of(policy("Net", ACME), policy("ResidualNetwork", ACME))
    with pytest.raises(PolicyNotFound) as caught:
        registry.get(name)
    assert expected in caught.value.fix


def test_a_missing_name_is_never_a_command_of_a_stranger():
    with pytest.raises(PolicyNotFound) as caught:
        Registry().get("x;rm -rf ~/Net")
    assert "pip install" not in caught.value.fix


def test_a_package_that_failed_is_not_to_be_installed_again():
    registry = Registry()
    registry.errors.append(PluginError("It failed.", distribution="resnets"))
    with pytest.raises(PolicyNotFound) as caught:
        registry.get("resnets/ResNet")
    assert "doctor" in caught.value.fix
    assert "pip install" not in caught.value.fix


def test_a_registry_can_be_pickled_while_another_thread_registers():
    registry, is_done = registry_of(policy("Net", ACME)), threading.Event()

    def register():
        for number in itertools.takewhile(lambda _: not is_done.is_set(), range(100_000)):
            registry.add(policy(f"Net{number}", ACME))
            registry.timings[str(number)] = registry.packages[str(number)] = None

    thread = threading.Thread(target=register)
    thread.start()
    try:
        copies = [pickle.loads(pickle.dumps(registry)) for _ in range(10)]
    finally:
        is_done.set()
        thread.join()
    assert all(each.get("Net") == registry.get("Net") for each in copies)
    assert copies[-1].hooks.errors is copies[-1].errors
    copies[-1].add(policy("Later", ACME))
