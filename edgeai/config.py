"""The settings of one installation: a TOML file, then the environment, then keywords; the later wins.

    # edgeai.toml, in `paths.config_dir()` or where EDGEAI_CONFIG points
    model = "smollm2-135m-instruct"
    cloud = "openai:gpt-4o-mini"
    privacy = "allow"

Each setting is also an environment variable: EDGEAI_MODEL, EDGEAI_CLOUD, … An empty variable counts as not
set. A name that is not a setting fails, because an ignored ``privcay = "local"`` would be a leak.
"""

import math
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from edgeai.errors import ConfigError
from edgeai.paths import config_dir

PREFIX = "EDGEAI_"
# Variables of other rooms, which are not settings.
NOT_SETTINGS = frozenset({"EDGEAI_CONFIG", "EDGEAI_DATA", "EDGEAI_HOME"})
WORDS = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}
_ABOVE_ZERO = ("n_ctx", "deadline_s", "isolation_memory_bytes", "isolation_limit_s")
TYPE_NAMES: dict[object, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a user may set once for all programs on this machine.

    ``n_ctx`` is in tokens per query (None: the engine's plan decides). ``profile`` names a device profile,
    ``goal`` is what matters more. ``device`` and ``allow_fallback`` are as of `edgeai.Edge`.
    ``cloud`` is ``"provider:model"``, or several of them, from cheap to
    strong; ``cloud_base_url`` its address, if it is not the provider's own; ``cloud_key_variable`` names the
    environment variable that holds its key; ``prices`` is a price table of one's own (`edgeai.prices`).
    ``min_score`` (higher is safer) and ``deadline_s`` (seconds) are reasons to leave the device, unless
    ``privacy`` is "local". ``ledger`` switches the record of queries. ``contract`` is the file of one, in
    place of ``min_score``. ``when_full`` is as in `Policy`, ``isolation``, ``isolation_memory_bytes``,
    ``isolation_limit_s`` and ``draft`` are as of `edgeai.Edge`. ``trusted_keys`` are the public keys of those
    whose bundles may be imported, with spaces between them.
    """

    model: str = "smollm2-135m-instruct"
    engine: str = "auto"
    n_ctx: int | None = None
    profile: str = "auto"
    goal: Literal["speed", "battery"] = "speed"
    device: str = "auto"
    allow_fallback: bool = False
    cloud: str | None = None
    cloud_base_url: str | None = None
    cloud_key_variable: str | None = None
    prices: str | None = None
    privacy: Literal["local", "redact", "allow"] = "local"
    min_score: float | None = None
    contract: str | None = None
    deadline_s: float | None = None
    when_full: Literal["error", "shift", "escalate"] = "error"
    ledger: bool = True
    isolation: Literal["auto", "thread", "process"] = "auto"
    isolation_memory_bytes: int | None = None
    isolation_limit_s: float | None = None
    draft: str | None = None
    trusted_keys: str | None = None

    @classmethod
    def load(
        cls,
        overrides: Mapping[str, object] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        spell: Callable[[str], str] = "the keyword {}".format,
    ) -> Self:
        """Read file and environment; ``overrides`` win, and an override of None changes nothing.

        ``spell`` is what an override is called where it was given, for the error.

        Raises ConfigError for a name that is not a setting, a value of the wrong type or out of range, and a
        file that cannot be read.
        """
        environ = os.environ if environ is None else environ
        values = _from_file(environ) | _from_environment(environ) | _from_overrides(overrides or {}, spell)
        return cls(**values)


def config_file(environ: Mapping[str, str] | None = None) -> Path:
    """The file that `Settings.load` reads: EDGEAI_CONFIG, or ``edgeai.toml`` in the configuration folder."""
    named = (os.environ if environ is None else environ).get("EDGEAI_CONFIG")
    return Path(named).expanduser() if named else config_dir() / "edgeai.toml"


def _from_file(environ: Mapping[str, str]) -> dict[str, Any]:
    path = config_file(environ)
    if not path.exists() and not environ.get("EDGEAI_CONFIG"):
        return {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"Cannot read the settings file {path}",
            why=str(error),
            remedy="Correct it, or EDGEAI_CONFIG",
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML", why=str(error), remedy="Correct that line") from error
    return {name: _checked(name, value, f"{name} in {path}") for name, value in table.items()}


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    named = {key: text for key, text in environ.items() if key.startswith(PREFIX) and key not in NOT_SETTINGS}
    return {
        _setting(key): _checked(_setting(key), _parsed(_setting(key), text), key, shown=text, prefix=PREFIX)
        for key, text in named.items()
        if text
    }


def _from_overrides(overrides: Mapping[str, object], spell: Callable[[str], str]) -> dict[str, Any]:
    return {
        name: _checked(name, value, spell(name))
        for name, value in overrides.items()
        if value is not None or name not in _types()
    }


def _setting(variable: str) -> str:
    return variable.removeprefix(PREFIX).lower()


def _types() -> dict[str, Any]:
    hints = get_type_hints(Settings)
    return {field.name: hints[field.name] for field in fields(Settings)}


def _scalar(hint: object) -> object:
    """``int | None`` and ``int`` are int; a Literal stays a Literal."""
    return get_args(hint)[0] if get_origin(hint) is UnionType else hint


def _parsed(name: str, text: str) -> object:
    """What an environment variable's text means for this setting; the text itself when it means nothing."""
    kind = _scalar(_types().get(name, str))
    try:
        if kind is bool:
            return WORDS[text.strip().lower()]
        return kind(text) if kind in (int, float) else text
    except (ValueError, KeyError):
        return text


def _checked(name: str, value: object, origin: str, *, shown: object = None, prefix: str = "") -> object:
    """The value, with whole numbers made floats where a float is wanted; ConfigError when it does not fit."""
    types = _types()
    if name not in types:
        raise _unknown(name, origin, prefix, list(types))
    kind = _scalar(types[name])
    if kind is float and type(value) is int:
        value = float(value)
    problem = _problem(name, kind, value)
    if problem:
        raise ConfigError(
            f"{origin} is {value if shown is None else shown!r}",
            why=f"It must be {problem}",
            remedy="Correct it",
        )
    return value


def _problem(name: str, kind: object, value: object) -> str | None:
    """What the value must be and is not, or None when it is good."""
    if get_origin(kind) is Literal:
        allowed = get_args(kind)
        return None if value in allowed else " or ".join(map(repr, allowed))
    if type(value) is not kind:
        return TYPE_NAMES[kind]
    if isinstance(value, float) and not math.isfinite(value):
        return "finite"
    if name in _ABOVE_ZERO and isinstance(value, int | float) and value <= 0:
        return "above zero"
    return None


def _unknown(name: str, origin: str, prefix: str, known: list[str]) -> ConfigError:
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    names = [(prefix + setting.upper() if prefix else setting) for setting in (near or known)]
    remedy = f"Did you mean {names[0]}?" if near else f"The settings are {', '.join(names)}"
    return ConfigError(f"Unknown setting: {origin}", remedy=remedy)
