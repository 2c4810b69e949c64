from pathlib import Path

import pytest

from edgeai.config import Settings, config_file
from edgeai.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "edgeai.toml"


def load(file: Path, text: str | None = None, **variables: str) -> Settings:
    if text is not None:
        file.write_text(text)
    return Settings.load(environ={"EDGEAI_CONFIG": str(file)} | variables)


def test_defaults_keep_everything_local(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without file, variables and keywords nothing may leave the device."""
    monkeypatch.setenv("EDGEAI_HOME", str(tmp_path))
    settings = Settings.load(environ={})
    assert settings == Settings()
    assert (settings.privacy, settings.cloud, settings.ledger) == ("local", None, True)


def test_the_later_source_wins(file: Path) -> None:
    """Keywords beat the environment, which beats the file, which beats the defaults."""
    file.write_text('model = "from-file"\nengine = "from-file"\ncloud = "openai:from-file"\n')
    environ = {"EDGEAI_CONFIG": str(file), "EDGEAI_ENGINE": "from-env", "EDGEAI_CLOUD": "openai:from-env"}
    settings = Settings.load({"cloud": "openai:keyword", "n_ctx": None}, environ=environ)
    assert settings.model == "from-file"
    assert settings.engine == "from-env"
    assert settings.cloud == "openai:keyword"
    assert settings.n_ctx is None


def test_the_file_is_in_the_configuration_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without EDGEAI_CONFIG the file of the configuration folder is read."""
    monkeypatch.setenv("EDGEAI_HOME", str(tmp_path))
    config_file({}).parent.mkdir(parents=True)
    config_file({}).write_text("ledger = false\n")
    assert not Settings.load(environ={}).ledger


def test_variables_are_parsed_by_type(file: Path) -> None:
    """Numbers, switches and texts come out of the environment as what they mean; empty means not set."""
    settings = load(
        file,
        "",
        EDGEAI_N_CTX="2048",
        EDGEAI_MIN_SCORE="-0.5",
        EDGEAI_LEDGER="off",
        EDGEAI_MODEL="",
        OTHER="x",
    )
    assert (settings.n_ctx, settings.min_score, settings.ledger) == (2048, -0.5, False)
    assert settings.model == Settings().model


def test_a_whole_number_is_a_number(file: Path) -> None:
    """TOML's ``4`` is good enough where seconds are wanted."""
    assert load(file, "deadline_s = 4").deadline_s == 4.0


@pytest.mark.parametrize(
    ("text", "variables", "words"),
    [
        ('privcay = "local"', {}, ["privcay", "edgeai.toml", "Did you mean privacy?"]),
        ("zzz = 1", {}, ["zzz", "The settings are model, engine"]),
        ("", {"EDGEAI_MODLE": "x"}, ["EDGEAI_MODLE", "Did you mean EDGEAI_MODEL?"]),
        ('n_ctx = "many"', {}, ["n_ctx in", "edgeai.toml", "'many'", "a whole number"]),
        ("n_ctx = true", {}, ["n_ctx", "a whole number"]),
        ("n_ctx = 0", {}, ["n_ctx", "above zero"]),
        ("deadline_s = nan", {}, ["deadline_s", "finite"]),
        ("ledger = 1", {}, ["ledger", "true or false"]),
        ("", {"EDGEAI_N_CTX": "1.5"}, ["EDGEAI_N_CTX", "'1.5'", "a whole number"]),
        ("", {"EDGEAI_LEDGER": "perhaps"}, ["EDGEAI_LEDGER", "true or false"]),
        ("", {"EDGEAI_PRIVACY": "none"}, ["EDGEAI_PRIVACY", "'local' or 'redact' or 'allow'"]),
        ("privacy = []", {}, ["privacy", "'local' or 'redact' or 'allow'"]),
        ("model = =", {}, ["edgeai.toml", "not valid TOML", "line 1"]),
    ],
)
def test_bad_settings_say_where_and_what(
    file: Path, text: str, variables: dict[str, str], words: list[str]
) -> None:
    """Every bad setting is a ConfigError that names its place and what was expected."""
    with pytest.raises(ConfigError) as caught:
        load(file, text, **variables)
    assert [word for word in words if word not in str(caught.value)] == []


def test_an_unknown_keyword_fails(file: Path) -> None:
    """A mistyped keyword fails even when its value is None."""
    with pytest.raises(ConfigError, match="Did you mean deadline_s"):
        Settings.load({"deadline": None}, environ={"EDGEAI_CONFIG": str(file)} if file.write_text("") else {})


def test_a_named_file_must_exist(file: Path) -> None:
    """EDGEAI_CONFIG that points nowhere is an error, not a silent default."""
    with pytest.raises(ConfigError, match="Cannot read the settings file"):
        load(file)


def test_a_file_that_is_not_text(file: Path) -> None:
    """Bytes that are not UTF-8 are a ConfigError."""
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="Cannot read"):
        load(file)
