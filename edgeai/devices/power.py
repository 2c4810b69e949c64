"""Battery and heat."""

from dataclasses import dataclass
from pathlib import Path

from edgeai.devices.files import ROOT, entries, number, text


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """``has_battery`` and ``on_battery``: None when nothing tells. ``charge`` from 0 to 1.

    ``hottest_c`` is the hottest sensor that is the processor's, in °C, or of all where none says so;
    ``limit_c`` where the system begins to slow it down, ``throttled`` whether it says that it does; on Linux
    the temperatures tell. ``draw_w`` is what the battery gives now.
    """

    has_battery: bool | None = None
    on_battery: bool | None = None
    charge: float | None = None
    draw_w: float | None = None
    hottest_c: float | None = None
    limit_c: float | None = None
    throttled: bool | None = None


CPU_ZONES = ("x86_pkg_temp", "cpu", "tcpu", "soc", "k10temp")


def read_power(root: Path = ROOT) -> Power:
    """From /sys/class/power_supply, /sys/class/thermal and /sys/class/hwmon below ``root``."""
    folder = root / "sys/class/power_supply"
    supplies = entries(folder)
    batteries = [supply for supply in supplies if _is_battery(supply)]
    hottest, limit = _heat(root)
    known = bool(supplies) or folder.is_dir()
    return Power(
        has_battery=bool(batteries) if known else None,
        on_battery=any(text(b / "status") == "Discharging" for b in batteries) if known else None,
        charge=_charge(batteries),
        draw_w=sum(watts) if (watts := [w for b in batteries if (w := battery_w(b)) is not None]) else None,
        hottest_c=hottest,
        limit_c=limit,
    )


def _is_battery(supply: Path) -> bool:
    """The machine's own: a mouse's has the scope Device."""
    return text(supply / "type") == "Battery" and text(supply / "scope") != "Device"


def battery_w(battery: Path) -> float | None:
    """Watts that the battery gives now; None while it does not, or has no meter."""
    if text(battery / "status") != "Discharging":
        return None
    micro = number(battery / "power_now")
    if micro is not None:
        return abs(micro) / 1e6
    current, voltage = number(battery / "current_now"), number(battery / "voltage_now")
    return None if current is None or voltage is None else abs(current) * voltage / 1e12


def batteries(root: Path = ROOT) -> list[Path]:
    """The folders of the machine's own batteries."""
    return [supply for supply in entries(root / "sys/class/power_supply") if _is_battery(supply)]


def _charge(found: list[Path]) -> float | None:
    levels = [level for battery in found if (level := number(battery / "capacity")) is not None]
    return sum(levels) / len(levels) / 100 if levels else None


def _heat(root: Path) -> tuple[float | None, float | None]:
    """The hottest sensor of the processor and its limit, in °C."""
    zones = entries(root / "sys/class/thermal", "thermal_zone*")
    own = [zone for zone in zones if text(zone / "type").lower().startswith(CPU_ZONES)]
    read = [(degrees, zone) for zone in own or zones if (degrees := number(zone / "temp")) is not None]
    if not read:
        return max((d / 1000 for d in _hwmon(root)), default=None), None
    hottest, zone = max(read, key=lambda pair: pair[0])
    return hottest / 1000, _trip(zone)


def _hwmon(root: Path) -> list[int]:
    """Millidegrees of the processor's sensors, where the thermal zones have none."""
    chips = [
        chip for chip in entries(root / "sys/class/hwmon") if text(chip / "name") in ("k10temp", "coretemp")
    ]
    inputs = [number(path) for chip in chips for path in entries(chip, "temp*_input")]
    return [degrees for degrees in inputs if degrees is not None]


def _trip(zone: Path) -> float | None:
    """Where the zone begins to be cooled by slowing down."""
    for kind in entries(zone, "trip_point_*_type"):
        if text(kind) == "passive":
            degrees = number(zone / kind.name.replace("_type", "_temp"))
            return None if degrees is None or degrees <= 0 else degrees / 1000
    return None
