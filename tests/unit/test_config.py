"""Settings: defaults, precedence, and a clear word for everything that cannot be."""

import itertools

import msgspec
import pytest

from memfast.config import PROFILES, Config, default_data_dir, load, settings
from memfast.errors import ConfigError

DEFAULTS = {
    "profile": "balanced",
    "server.host": "127.0.0.1",
    "server.port": 8077,
    "server.workers": 1,
    "server.read_timeout_s": 2.0,
    "server.write_timeout_s": 10.0,
    "server.timeout_max_s": 30.0,
    "server.body_timeout_s": 10.0,
    "server.body_max_bytes": 10 * 1024 * 1024,
    "server.stop_timeout_s": 35,
    "server.backlog": 1024,
    "postgres.dsn": "",
    "postgres.embedded_major": 18,
    "postgres.pool_min": 0,
    "postgres.pool_max": 0,
    "postgres.acquire_timeout_s": 1.0,
    "postgres.connect_timeout_s": 5.0,
    "postgres.command_timeout_s": 10.0,
    "postgres.idle_lifetime_s": 300.0,
    "embedding.provider": "wordllama",
    "embedding.model": "",
    "embedding.base_url": "",
    "embedding.api_key": "",
    "embedding.dimensions": 0,
    "cache.memory_mb": 128,
    "cache.entries": 10_000,
    "cache.ttl_s": 300.0,
    "cache.idle_s": 60.0,
    "limits.text_bytes": 64 * 1024,
    "limits.tags": 64,
    "limits.tag_chars": 128,
    "limits.entities": 64,
    "limits.entity_chars": 256,
    "limits.metadata_bytes": 16 * 1024,
    "limits.metadata_depth": 8,
    "limits.user_id_bytes": 256,
    "limits.batch_items": 1000,
    "limits.page_items": 1000,
    "log.level": "info",
    "log.format": "console",
}
VARIABLES = {
    "server.host": "MEMFAST_HOST",
    "server.port": "MEMFAST_PORT",
    "server.workers": "MEMFAST_WORKERS",
    "data_dir": "MEMFAST_DATA_DIR",
    "postgres.dsn": "MEMFAST_POSTGRES_DSN",
    "profile": "MEMFAST_PROFILE",
    "log.level": "MEMFAST_LOG_LEVEL",
    "log.format": "MEMFAST_LOG_FORMAT",
}
KNOWN = {setting.key: setting for setting in settings()}


def value_of(config, key):
    """A setting by its key."""
    section, _, name = key.rpartition(".")
    return getattr(getattr(config, section) if section else config, name)


@pytest.fixture
def file(tmp_path):
    """Function: a TOML file with this text."""

    def write(text):
        path = tmp_path / "memfast.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_defaults_are_those_that_are_promised():
    """Without file, variables and flags; each is told as a default."""
    effective = load({})
    assert {key: value_of(effective.config, key) for key in DEFAULTS} == DEFAULTS
    assert effective.config.data_dir == default_data_dir()
    assert set(effective.origins) == set(KNOWN)
    assert set(effective.origins.values()) == {"default"}


def test_every_setting_is_documented_and_has_its_own_variable():
    """Text and unit for all of them; seconds, bytes and counts say so."""
    assert all(setting.text for setting in KNOWN.values())
    assert all(setting.unit == "s" for setting in KNOWN.values() if setting.key.endswith("_s"))
    assert all(setting.unit == "bytes" for setting in KNOWN.values() if setting.key.endswith("_bytes"))
    variables = [setting.variable for setting in KNOWN.values()]
    assert len(variables) == len(set(variables))
    assert {key: KNOWN[key].variable for key in VARIABLES} == VARIABLES
    fields = {
        f"{section}.{field}" if section else field
        for section, kind in [
            ("", Config),
            *((name, type(getattr(Config(), name))) for name in Config.__struct_fields__),
        ]
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
        for field in kind.__struct_fields__
    }
    assert set(KNOWN) == {field for field in fields if not isinstance(getattr(Config(), field, None), msgspec.Struct)}


@pytest.mark.parametrize("key", KNOWN)
def test_every_setting_can_be_set_in_each_way(key, file):
    """By file, by variable and by flag: its own default is taken back, and where it came from is told."""
    setting = KNOWN[key]
    value = 256 if key == "embedding.dimensions" else setting.default
    section, _, name = key.rpartition(".")
    lines = f"[{section}]\n" if section else ""
    text = lines + f"{name} = {msgspec.json.encode(value).decode()}\n"
    for origin, effective in {
        str(file(text)): load({}, file=file(text)),
        setting.variable: load({setting.variable: str(value)}),
        "command line": load({}, flags={key: value}),
    }.items():
        assert value_of(effective.config, key) == value
        assert effective.origins[key] == origin
        assert [name for name, where in effective.origins.items() if where != "default"] == [key]


def test_flags_win_over_variables_over_the_file_over_the_profile_over_defaults(file):
    """Each layer is uncovered when the one above it is taken away."""
    path = file("profile = 'high-traffic'\n[postgres]\npool_max = 50\n")
    variables = {"MEMFAST_POSTGRES_POOL_MAX": "40"}
    flags = {"postgres.pool_max": 30}
    found = [
        load(variables, flags=flags, file=path),
        load(variables, file=path),
        load({}, file=path),
        load({"MEMFAST_PROFILE": "high-traffic"}),
        load({}),
    ]
    assert [effective.config.postgres.pool_max for effective in found] == [30, 40, 50, 64, 0]
    assert [effective.origins["postgres.pool_max"] for effective in found] == [
        "command line",
        "MEMFAST_POSTGRES_POOL_MAX",
        str(path),
        "profile high-traffic",
        "default",
    ]


def test_the_file_may_be_named_by_a_variable(file):
    """MEMFAST_CONFIG; an argument wins over it, an empty one is none."""
    path = file("[server]\nport = 9000\n")
    assert load({"MEMFAST_CONFIG": str(path)}).config.server.port == 9000
    assert load({"MEMFAST_CONFIG": ""}).config.server.port == 8077
    assert load({"MEMFAST_CONFIG": "/nowhere"}, file=path).config.server.port == 9000


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_change_what_they_say_and_nothing_else(profile):
    """Every key of a profile is a setting, is applied, and can be overridden."""
    effective = load({"MEMFAST_PROFILE": profile})
    changed = {key for key, origin in effective.origins.items() if origin == f"profile {profile}"}
    assert changed == set(PROFILES[profile])
    for key, value in PROFILES[profile].items():
        assert value_of(effective.config, key) == value
        assert (
            value_of(load({"MEMFAST_PROFILE": profile}, flags={key: KNOWN[key].default}).config, key)
            == KNOWN[key].default
        )


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("MEMFAST_PROT", "MEMFAST_PORT"),
        ("MEMFAST_SERVER_PORT", "MEMFAST_PORT"),
        ("MEMFAST_POSTGRES_DNS", "MEMFAST_POSTGRES_DSN"),
        ("MEMFAST_LOGLEVEL", "MEMFAST_LOG_LEVEL"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest(variable, nearest):
    """A typing error is never a silent default."""
    with pytest.raises(ConfigError, match=f"{variable}.*{nearest}"):
        load({variable: "1"})


def test_unknown_keys_of_file_and_flags_are_refused(file):
    """With the place, and the nearest name where there is one."""
    with pytest.raises(ConfigError, match=r"'server\.prot' in .*memfast\.toml; did you mean server\.port\?"):
        load({}, file=file("[server]\nprot = 1\n"))
    with pytest.raises(ConfigError, match=r"'port' in .*memfast\.toml"):
        load({}, file=file("port = 1\n"))
    with pytest.raises(ConfigError, match="'zzz' in the command line; see `memfast config`"):
        load({}, flags={"zzz": 1})
    for text in ("server = 5\n", "[server.port]\nx = 1\n", "[nothing]\n[other]\nx = 1\n"):
        with pytest.raises(ConfigError):
            load({}, file=file(text))


def test_variables_of_others_are_left_alone():
    """Only MEMFAST_* is looked at, and of these not what something else reads."""
    effective = load({"PATH": "x", "memfast_port": "1", "MEMFAST_API_KEY": "k", "MEMFAST_NATIVE": "py"})
    assert set(effective.origins.values()) == {"default"}


BAD_VALUES = [
    ("server.port", "0"),
    ("server.port", "65536"),
    ("server.port", "x"),
    ("server.port", ""),
    ("server.port", "8077.5"),
    ("server.workers", "0"),
    ("server.workers", "65"),
    ("server.read_timeout_s", "0"),
    ("server.read_timeout_s", "-1"),
    ("server.read_timeout_s", "nan"),
    ("server.read_timeout_s", "inf"),
    ("server.body_max_bytes", "1023"),
    ("postgres.embedded_major", "17"),
    ("postgres.pool_min", "-1"),
    ("postgres.idle_lifetime_s", "nan"),
    ("postgres.idle_lifetime_s", "0"),
    ("embedding.provider", "magic"),
    ("embedding.send_dimensions", "maybe"),
    ("embedding.dimensions", "16001"),
    ("limits.metadata_depth", "65"),
    ("log.level", "loud"),
    ("profile", "fast"),
]


@pytest.mark.parametrize(("key", "value"), BAD_VALUES)
def test_a_bad_value_is_refused_with_key_value_place_and_meaning(key, value):
    """What was wrong, where, and what the setting is for."""
    with pytest.raises(ConfigError) as refused:
        load({KNOWN[key].variable: value})
    for part in (key, repr(value), KNOWN[key].variable, KNOWN[key].text):
        assert part in str(refused.value)


def test_values_of_a_file_have_their_own_types(file):
    """TOML has numbers and booleans; other types are refused."""
    assert load({}, file=file("[embedding]\nsend_dimensions = true\n")).config.embedding.send_dimensions is True
    assert load({}, file=file("[server]\nread_timeout_s = 5\n")).config.server.read_timeout_s == 5.0
    for text in (
        "[server]\nport = [1]\n",
        "[server]\nport = true\n",
        "[server]\nhost = 5\n",
        "[log]\nlevel = 1979-05-27\n",
    ):
        with pytest.raises(ConfigError):
            load({}, file=file(text))


def test_secrets_are_not_shown():
    """Neither by the list of settings nor by an error about them."""
    assert {key for key, setting in KNOWN.items() if setting.secret} == {
        "embedding.api_key",
        "embedding.next_api_key",
        "graph.password",
        "postgres.dsn",
        "redis.url",
    }
    with pytest.raises(ConfigError) as refused:
        load({}, flags={"postgres.dsn": ["postgresql://me:hunter2@host/db"]})
    assert "hunter2" not in str(refused.value)
    assert "postgres.dsn" in str(refused.value)


def test_an_unreadable_file_is_refused(file, tmp_path):
    """Missing, a folder, no TOML, no UTF-8: each with its path."""
    for path in (tmp_path / "missing.toml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            load({}, file=path)
    for text in ("[server", "port = \n", "a = 1\na = 2\n", b"\xff\xfe", b"x = '\xe9'"):
        with pytest.raises(ConfigError, match=r"memfast\.toml"):
            load({}, file=file(text))


COMBINATIONS = [
    ({"embedding.provider": "none"}, "embedding.dimensions"),
    ({"embedding.provider": "openai", "embedding.dimensions": 3}, "embedding.base_url"),
    ({"embedding.provider": "openai", "embedding.dimensions": 3, "embedding.model": "m"}, "embedding.base_url"),
    ({"postgres.pool_min": 5, "postgres.pool_max": 4}, "postgres.pool_min = 5"),
    ({"server.timeout_max_s": 60.0}, "server.stop_timeout_s"),
    ({"server.read_timeout_s": 31.0}, "server.read_timeout_s"),
    ({"server.write_timeout_s": 31.0}, "server.write_timeout_s"),
]


@pytest.mark.parametrize(("flags", "says"), COMBINATIONS)
def test_settings_that_contradict_each_other_are_refused(flags, says):
    """Each is valid alone; together they cannot be."""
    with pytest.raises(ConfigError, match=says):
        load({}, flags=flags)


def test_any_two_profiles_settings_can_be_combined_with_a_variable():
    """No profile makes a plain variable a contradiction by itself."""
    for profile, port in itertools.product(PROFILES, ("8078", "8079")):
        assert load({"MEMFAST_PROFILE": profile, "MEMFAST_PORT": port}).config.server.port == int(port)
