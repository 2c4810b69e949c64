"""Hybrid inference: a small model answers on the device; hard queries go to a cloud if the policy lets them.

Importing this package is light: each name below is loaded when it is first used, and engines, the network and
numpy not before they are needed.
"""

import os

# Dependencies that would report home are told not to, before any of them can be imported.
_SWITCHES = ("ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")
for _switch in _SWITCHES:
    os.environ.setdefault(_switch, "1")

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeai.async_edge import AsyncChat, AsyncEdge, AsyncStream
    from edgeai.cloud import open_cloud
    from edgeai.cloud.openai import OpenAI
    from edgeai.drive import Stream
    from edgeai.economics import Price
    from edgeai.edge import Chat, Edge
    from edgeai.egress import LabelRule, Redaction
    from edgeai.errors import (
        BothFailed,
        BudgetExceeded,
        Cancelled,
        CloudAuth,
        CloudError,
        CloudProtocol,
        CloudRateLimited,
        CloudRefused,
        CloudTimeout,
        CloudUnavailable,
        ConfigError,
        ContextOverflow,
        ContractInfeasible,
        ContractInvalid,
        ConversionError,
        DeviceUnavailable,
        DiskFull,
        DownloadFailed,
        EdgeError,
        EngineClosed,
        EngineCrashed,
        EngineError,
        EngineLoadFailed,
        GateFailed,
        LedgerError,
        MissingExtra,
        ModelCorrupt,
        ModelError,
        ModelNotFound,
        ModelTooLarge,
        ModelUnsupported,
        ModelUntrusted,
        OutOfMemory,
        PolicyError,
        PrivacyViolation,
        QueueFull,
        StoreError,
        StoreLocked,
    )
    from edgeai.monitor.contract import Contract
    from edgeai.policy import Policy
    from edgeai.standing import DriftAlarm
    from edgeai.types import (
        Answer,
        CallOptions,
        Choice,
        Delta,
        Done,
        Event,
        Extraction,
        Image,
        Message,
        Reason,
        Replaced,
        Signals,
        Text,
        Timing,
        Token,
        Tool,
        ToolCall,
        Usage,
        Warmed,
    )

__all__ = [
    "Answer",
    "AsyncChat",
    "AsyncEdge",
    "AsyncStream",
    "BothFailed",
    "BudgetExceeded",
    "CallOptions",
    "Cancelled",
    "Chat",
    "Choice",
    "CloudAuth",
    "CloudError",
    "CloudProtocol",
    "CloudRateLimited",
    "CloudRefused",
    "CloudTimeout",
    "CloudUnavailable",
    "ConfigError",
    "ContextOverflow",
    "Contract",
    "ContractInfeasible",
    "ContractInvalid",
    "ConversionError",
    "Delta",
    "DeviceUnavailable",
    "DiskFull",
    "Done",
    "DownloadFailed",
    "DriftAlarm",
    "Edge",
    "EdgeError",
    "EngineClosed",
    "EngineCrashed",
    "EngineError",
    "EngineLoadFailed",
    "Event",
    "Extraction",
    "GateFailed",
    "Image",
    "LabelRule",
    "LedgerError",
    "Message",
    "MissingExtra",
    "ModelCorrupt",
    "ModelError",
    "ModelNotFound",
    "ModelTooLarge",
    "ModelUnsupported",
    "ModelUntrusted",
    "OpenAI",
    "OutOfMemory",
    "Policy",
    "PolicyError",
    "Price",
    "PrivacyViolation",
    "QueueFull",
    "Reason",
    "Redaction",
    "Replaced",
    "Signals",
    "StoreError",
    "StoreLocked",
    "Stream",
    "Text",
    "Timing",
    "Token",
    "Tool",
    "ToolCall",
    "Usage",
    "Warmed",
    "open_cloud",
]

# Where each name is. A program pays for what it uses; the command line's help, for nothing of it.
_PLACES = {
    "edgeai.async_edge": (
        "AsyncChat",
        "AsyncEdge",
        "AsyncStream",
    ),
    "edgeai.cloud": ("open_cloud",),
    "edgeai.cloud.openai": ("OpenAI",),
    "edgeai.drive": ("Stream",),
    "edgeai.economics": ("Price",),
    "edgeai.edge": (
        "Chat",
        "Edge",
    ),
    "edgeai.egress": (
        "LabelRule",
        "Redaction",
    ),
    "edgeai.errors": (
        "BothFailed",
        "BudgetExceeded",
        "Cancelled",
        "CloudAuth",
        "CloudError",
        "CloudProtocol",
        "CloudRateLimited",
        "CloudRefused",
        "CloudTimeout",
        "CloudUnavailable",
        "ConfigError",
        "ContextOverflow",
        "ContractInfeasible",
        "ContractInvalid",
        "ConversionError",
        "DeviceUnavailable",
        "DiskFull",
        "DownloadFailed",
        "EdgeError",
        "EngineClosed",
        "EngineCrashed",
        "EngineError",
        "EngineLoadFailed",
        "GateFailed",
        "LedgerError",
        "MissingExtra",
        "ModelCorrupt",
        "ModelError",
        "ModelNotFound",
        "ModelTooLarge",
        "ModelUnsupported",
        "ModelUntrusted",
        "OutOfMemory",
        "PolicyError",
        "PrivacyViolation",
        "QueueFull",
        "StoreError",
        "StoreLocked",
    ),
    "edgeai.monitor.contract": ("Contract",),
    "edgeai.policy": ("Policy",),
    "edgeai.standing": ("DriftAlarm",),
    "edgeai.types": (
        "Answer",
        "CallOptions",
        "Choice",
        "Delta",
        "Done",
        "Event",
        "Extraction",
        "Image",
        "Message",
        "Reason",
        "Replaced",
        "Signals",
        "Text",
        "Timing",
        "Token",
        "Tool",
        "ToolCall",
        "Usage",
        "Warmed",
    ),
}
_LAZY = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in _LAZY:
        found = globals()[name] = getattr(import_module(_LAZY[name]), name)
        return found
    if name in ("errors", "types"):
        return import_module(f"edgeai.{name}")
    raise AttributeError(f"module 'edgeai' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
