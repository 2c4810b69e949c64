"""Hybrid inference: a small model answers on the device; hard queries go to a cloud if the policy lets them.

Importing this package is light: engines, the network and numpy are loaded where they are used.
"""

import os

# Dependencies that would report home are told not to, before any of them can be imported.
_SWITCHES = ("ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")
for _switch in _SWITCHES:
    os.environ.setdefault(_switch, "1")

from typing import TYPE_CHECKING

from edgeai.cloud import (
    open_cloud,
)
from edgeai.drive import (
    Stream,
)
from edgeai.economics import Price
from edgeai.edge import (
    Chat,
    Edge,
)
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
    DiskFull,
    DownloadFailed,
    EdgeError,
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
    OutOfMemory,
    PolicyError,
    PrivacyViolation,
    QueueFull,
    StoreError,
    StoreLocked,
)
from edgeai.policy import Policy
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
)

if TYPE_CHECKING:
    from edgeai.async_edge import AsyncChat, AsyncEdge, AsyncStream
    from edgeai.cloud.openai import OpenAI
    from edgeai.monitor.contract import Contract
    from edgeai.standing import DriftAlarm

# Loaded on first use: asyncio and the network's libraries are not light.
_LAZY = {
    "AsyncChat": "edgeai.async_edge",
    "AsyncEdge": "edgeai.async_edge",
    "AsyncStream": "edgeai.async_edge",
    "Contract": "edgeai.monitor.contract",
    "DriftAlarm": "edgeai.standing",
    "OpenAI": "edgeai.cloud.openai",
}

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
    "DiskFull",
    "Done",
    "DownloadFailed",
    "DriftAlarm",
    "Edge",
    "EdgeError",
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
    "open_cloud",
]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'edgeai' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
