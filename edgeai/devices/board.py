"""The machine as a product: its name and its form."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeai.devices.files import ROOT, number, text

Form = Literal["laptop", "tablet", "desktop", "server", "board"]
# SMBIOS 3.7, table 17 (system enclosure types), as far as they tell something.
FORMS: dict[int, Form] = {
    **dict.fromkeys((8, 9, 10, 14, 31), "laptop"),
    **dict.fromkeys((11, 30, 32), "tablet"),
    **dict.fromkeys((3, 4, 5, 6, 7, 13, 15, 16, 24, 34, 35, 36), "desktop"),
    **dict.fromkeys((17, 23, 25, 28, 29), "server"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """``name`` for people; ``compatible`` are the devicetree's names of board and chip. Unknown is None."""

    name: str | None = None
    compatible: tuple[str, ...] = ()
    form: Form | None = None


def read_board(root: Path = ROOT) -> Board:
    """From the devicetree or the firmware's tables (DMI) below ``root``; serial numbers are not read."""
    tree = root / "sys/firmware/devicetree/base"
    if model := text(tree / "model"):
        return Board(name=model, compatible=tuple(text(tree / "compatible").split("\0")), form="board")
    dmi = root / "sys/class/dmi/id"
    names = [text(dmi / name) for name in ("sys_vendor", "product_name")]
    return Board(
        name=" ".join(name for name in names if name) or None,
        form=FORMS.get(number(dmi / "chassis_type") or 0),
    )
