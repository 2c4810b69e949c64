"""The small files beside a graph: what they say about tokens and context, whoever wrote them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgeai.errors import ModelCorrupt, ModelNotFound

__all__ = ["TOKENIZER", "Folder", "read_folder"]

TOKENIZER: Final = "tokenizer.json"
_MAX_BYTES: Final = 1 << 26

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """``tokenizer`` is the text of ``tokenizer.json``. Names and numbers are None where no file has them.

    ``bos`` and ``eos`` are tokens as text. ``context`` is what the model was trained for, in tokens.
    """

    tokenizer: str
    chat_template: str | None
    bos: str | None
    eos: str | None
    bos_id: int | None
    eos_ids: tuple[int, ...]
    add_bos: bool | None
    context: int | None
    n_embd: int | None
    n_kv_heads: int | None
    head_dim: int | None


def read_folder(folder: Path) -> Folder:
    """Read them. Raises ModelNotFound (no tokenizer) or ModelCorrupt."""
    if not (folder / TOKENIZER).is_file():
        raise ModelNotFound(
            f"There is no {TOKENIZER} beside the model in {folder}", remedy="Put the model's tokenizer there"
        )
    config = _read(folder / "config.json")
    config = _table(config, "text_config") or config
    named = _read(folder / "tokenizer_config.json")
    made = _read(folder / "generation_config.json")
    genai = _table(_read(folder / "genai_config.json"), "model")
    ends = [_numbers(table.get("eos_token_id")) for table in (made, genai, config)]
    starts = [_numbers(table.get("bos_token_id")) for table in (made, genai, config)]
    decoder = _table(genai, "decoder")
    n_embd = _first(decoder.get("hidden_size"), config.get("hidden_size"))
    n_heads = _first(decoder.get("num_attention_heads"), config.get("num_attention_heads"))
    added = named.get("add_bos_token")
    return Folder(
        tokenizer=_text(folder / TOKENIZER),
        chat_template=_template(folder, named),
        bos=_token(named.get("bos_token")),
        eos=_token(named.get("eos_token")),
        bos_id=next((found[0] for found in starts if found), None),
        eos_ids=tuple(dict.fromkeys(token for found in ends for token in found)),
        add_bos=added if isinstance(added, bool) else None,
        context=_first(genai.get("context_length"), config.get("max_position_embeddings")),
        n_embd=n_embd,
        n_kv_heads=_first(decoder.get("num_key_value_heads"), config.get("num_key_value_heads"), n_heads),
        head_dim=_first(decoder.get("head_size"), config.get("head_dim"))
        or (n_embd // n_heads if n_embd and n_heads else None),
    )


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise _corrupt(path, f"it is larger than {_MAX_BYTES} bytes")
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise _corrupt(path, "it is not UTF-8") from error
    except OSError as error:
        raise _corrupt(path, error.strerror or "it cannot be read") from error


def _read(path: Path) -> Json:
    """A JSON table; empty when there is no such file."""
    if not path.is_file():
        return {}
    try:
        table = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise _corrupt(path, str(error)) from error
    if not isinstance(table, dict):
        raise _corrupt(path, "it is not a table")
    return table


def _table(table: Json, key: str) -> Json:
    inner = table.get(key)
    return inner if isinstance(inner, dict) else {}


def _template(folder: Path, named: Json) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return _text(path)
    found = named.get("chat_template")
    if isinstance(found, list):  # several with names
        tables = [row for row in found if isinstance(row, dict)]
        found = next((row.get("template") for row in tables if row.get("name") == "default"), None)
    return found if isinstance(found, str) else None


def _token(found: object) -> str | None:
    if isinstance(found, dict):
        found = found.get("content")
    return found if isinstance(found, str) else None


def _numbers(found: object) -> list[int]:
    """Whole numbers: one, several or none."""
    several = found if isinstance(found, list) else [found]
    return [n for n in several if isinstance(n, int) and not isinstance(n, bool) and n >= 0]


def _first(*claims: object) -> int | None:
    """The first number above zero."""
    return next((n for found in claims for n in _numbers(found) if n), None)


def _corrupt(path: Path, why: str) -> ModelCorrupt:
    return ModelCorrupt(f"{path.name} is not sound", why=why, remedy="Get the model again")
