"""PufferLib's .ini files load as they are; what has no effect and what is wrong is named."""

import warnings
from contextlib import suppress

import pytest

from puffer_policies.config.ini import parse_ini, read_ini
from puffer_policies.config.load import ConfigWarning, load_config
from puffer_policies.errors import ConfigError

# The guide's example, plus the forms of values that PufferLib's own files hold.
GUIDE = """\
[base]
package = my_package
env_name = my_env
policy_name = MyPolicy
rnn_name = None

[policy]
hidden_size = 512

[train]
total_timesteps = 90_000_000
learning_rate = 0.044  # found by a sweep
anneal_lr = False
batch_size = auto
bptt_horizon: 64
"""


@pytest.fixture
def write(tmp_path):
    def write_file(text, name="env.ini"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write_file


def line_of(text, start):
    return next(n for n, line in enumerate(text.splitlines(), 1) if line.startswith(start))


def test_the_guides_file_loads(write):
    config = load_config(write(GUIDE))
    args = config.to_args()
    assert args["package"] == "my_package"
    assert args["env_name"] == "my_env"
    assert args["policy_name"] == "MyPolicy"
    assert args["rnn_name"] is None
    assert args["policy"] == {"hidden_size": 512}
    assert args["train"]["total_timesteps"] == 90_000_000
    assert args["train"]["learning_rate"] == 0.044
    assert args["train"]["anneal_lr"] is False
    assert args["train"]["batch_size"] == "auto"
    assert args["train"]["bptt_horizon"] == 64


def test_every_value_knows_its_line(write):
    path = write(GUIDE)
    config = load_config(path)
    assert config.origin("train", "anneal_lr") == f"{path}:{line_of(GUIDE, 'anneal_lr')}"
    assert config.origin("policy", "hidden_size") == f"{path}:{line_of(GUIDE, 'hidden_size')}"


def test_keys_without_effect_are_named_with_their_line_and_a_reason(write):
    text = "[base]\nenv_name = e\n[vec]\nbackend = Serial\n[train]\nnum_envs = 8\ngamma = 0.9\n"
    path = write(text)
    with pytest.warns(ConfigWarning) as caught:
        config = load_config(path)
    message = str(caught[0].message)
    assert f"{path}:6: train.num_envs has no effect: PufferLib 3.0 does not read it" in message
    assert f"{path}:4: vec.backend has no effect" in message
    assert [each.key for each in config.ignored] == ["vec.backend", "train.num_envs"]
    assert config.train.gamma == 0.9


def test_sweep_sections_have_no_effect_and_are_named(write):
    path = write("[base]\nenv_name = e\n[sweep.train.gamma]\ndistribution = uniform\nmin = 0\n")
    with pytest.warns(ConfigWarning, match=r"env\.ini:3: \[sweep\.train\.gamma\]"):
        load_config(path)


def test_pufferlibs_options_of_the_trainer_are_ours(write):
    options = "optimizer = muon\nprio_alpha = 0.8\nvtrace_c_clip = 1.5\nprecision = bfloat16\n"
    path = write(f"[base]\nenv_name = e\n[train]\n{options}max_minibatch_size = 32768\n")
    config = load_config(path)
    assert config.ignored == ()
    assert (config.train.optimizer, config.train.precision) == ("muon", "bfloat16")
    assert (config.train.prio_alpha, config.train.vtrace_c_clip) == (0.8, 1.5)
    assert config.train.max_minibatch_size == 32768


def test_a_key_that_no_one_knows_is_an_error_with_line_and_nearest_key(write):
    path = write("[base]\nenv_name = e\n[train]\n\nlearnin_rate = 1\ngamma = 2\n[polcy]\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    text = str(caught.value)
    assert f"{path}:5: train.learnin_rate: no such key" in text
    assert "Did you mean 'learning_rate'?" in text
    assert f"{path}:6: train.gamma: expected a number from 0 to 1" in text
    assert f"{path}:7: there is no section [polcy]. Did you mean 'policy'?" in text


def test_one_of_several_envs_must_be_chosen(write):
    path = write("[base]\nenv_name = Acrobot-v1 Foo-v0\n    Bar-v0\n")
    with pytest.raises(ConfigError, match="3 names: Acrobot-v1, Foo-v0, Bar-v0"):
        load_config(path)
    assert load_config(path, ["--env-name", "Bar-v0"]).base.env_name == "Bar-v0"


def test_pufferlibs_breakout_trains_on_ours_without_its_arguments(write):
    text = (
        "[base]\npackage = ocean\nenv_name = puffer_breakout\npolicy_name = Policy\n"
        "rnn_name = Recurrent\n[env]\nframeskip = 4\n[rnn]\nhidden_size = 64\n"
    )
    with pytest.warns(
        ConfigWarning, match=r"env\.frameskip .* puffer_policies/Breakout-v0 is used"
    ):
        config = load_config(write(text))
    assert config.base.env_name == "puffer_policies/Breakout-v0"
    assert config.base.rnn_name == "Recurrent"
    assert config.env == {}
    assert config.rnn == {"hidden_size": 64}


def test_a_file_without_odd_entries_warns_of_nothing(write):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_config(write(GUIDE))


def test_a_file_that_names_no_env_is_an_error(write):
    for text in ("[train]\ngamma = 1\n", "[base]\nenv_name =\n"):
        with pytest.raises(ConfigError, match="env_name"):
            load_config(write(text))


def test_the_grammar_is_that_of_configparser():
    text = (
        "; a comment\n# another\n[a]\nKey = 1 ; why\ncolour = '#fff' # white\nurl: x#y\n"
        "empty =\n  \nlong = one\n   two\n[b]\nkey=2\n"
    )
    file = parse_ini(text, path="f.ini")
    assert file.data == {
        "a": {"key": "1", "colour": "'#fff'", "url": "x#y", "empty": "", "long": "one two"},
        "b": {"key": "2"},
    }
    assert file.at("b", "key") == "f.ini:12"
    assert file.at("a") == "f.ini:3"


def test_offences_of_a_file_come_at_once_with_their_lines():
    text = "early = 1\n[a]\nx = 1\nx = 2\nwhat\n[a]\n"
    with pytest.raises(ConfigError) as caught:
        parse_ini(text, path="f.ini")
    message = str(caught.value)
    assert "f.ini:1: 'early = 1' is not a section" in message
    assert "f.ini:4: 'x' is already on line 3" in message
    assert "f.ini:5: 'what' is not a section" in message
    assert "f.ini:6: [a] is already on line 2" in message


@pytest.mark.parametrize(
    "line", [f"x{' ' * 100_000}y", f"x{' ' * 100_000}= 1", "a#" * 100_000, "\"'" * 100_000 + "#"]
)
def test_the_time_of_a_long_line_grows_with_its_length(line):
    # A pattern that tries every split of the line would take half a minute.
    with suppress(ConfigError):
        parse_ini(f"[a]\n{line}\n", path="f.ini")


def test_an_error_lists_some_problems_of_thousands_and_counts_the_rest():
    with pytest.raises(ConfigError) as caught:
        parse_ini("what\n" * 10_000, path="f.ini")
    assert "f.ini:20: 'what' is not" in caught.value.problem
    assert caught.value.problem.endswith("... and 9,980 more")


def test_a_missing_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.ini"):
        read_ini(tmp_path / "none.ini")


def test_the_mark_of_windows_editors_is_skipped(tmp_path):
    path = tmp_path / "bom.ini"
    path.write_bytes(b"\xef\xbb\xbf[a]\r\nx = 1\r\n")
    assert read_ini(path).data == {"a": {"x": "1"}}


def test_every_plain_file_reads_as_configparser_reads_it():
    import configparser

    reference = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=("#", ";"))
    reference.read_string(GUIDE)
    expected = {name: dict(reference[name]) for name in reference.sections()}
    assert parse_ini(GUIDE, path="f.ini").data == expected
