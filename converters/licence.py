"""Under which licence a model folder's weights are, and the texts that must go along with them."""

import re
from pathlib import Path

__all__ = ["licence_files", "licence_of"]

_MAX_BYTES = 1 << 20
_FIELD = re.compile(r"^(license|license_name):\s*[\"']?([^\"'\n#]+)", re.MULTILINE)
_TEXTS = ("LICENSE", "LICENCE", "COPYING", "NOTICE", "USE_POLICY")


def licence_of(folder: Path) -> str | None:
    """What the model card says, None where it says nothing; ``other`` is followed up to the name given."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    text = card.read_bytes()[:_MAX_BYTES].decode("utf-8", "replace").replace("\r\n", "\n")
    head = text.split("\n---", 1)[0] if text.startswith("---") else ""
    found = {key: value.strip() for key, value in _FIELD.findall(head)}
    named = found.get("license")
    return found.get("license_name", named) if named == "other" else named


def licence_files(folder: Path) -> tuple[Path, ...]:
    """Texts of licences and notices in the folder, which a package carries along."""
    names = (path for path in sorted(folder.iterdir()) if path.is_file())
    return tuple(p for p in names if p.name.upper().startswith(_TEXTS) and p.stat().st_size <= _MAX_BYTES)
