"""Where edgeai keeps its files.

``EDGEAI_HOME`` moves all of them under one folder. Models live in the cache folder; the ledger, contracts
and tuning in the data folder, so that wiping a cache does not erase the record.
"""

import os
from pathlib import Path

import platformdirs

__all__ = ["cache_dir", "config_dir", "data_dir"]


def cache_dir() -> Path:
    """The folder of what can be fetched again: models and unfinished downloads. It may not exist yet."""
    return _under_home("cache") or platformdirs.user_cache_path("edgeai", appauthor=False)


def data_dir() -> Path:
    """The folder of what must not be lost: ledger, queue, contracts, tuning. It may not exist yet."""
    return _under_home("data") or platformdirs.user_data_path("edgeai", appauthor=False)


def config_dir() -> Path:
    """The folder of the user's own settings and catalog. It may not exist yet."""
    return _under_home("config") or platformdirs.user_config_path("edgeai", appauthor=False)


def _under_home(folder: str) -> Path | None:
    home = os.environ.get("EDGEAI_HOME")
    return Path(home).expanduser().absolute() / folder if home else None
