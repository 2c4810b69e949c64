"""The exit codes of all verbs."""

from enum import IntEnum

from edgeai.errors import (
    BothFailed,
    CloudError,
    ConfigError,
    ConversionError,
    EdgeError,
    EngineError,
    GateFailed,
    LedgerError,
    MissingExtra,
    ModelError,
    PolicyError,
    StoreError,
)


class Exit(IntEnum):
    """What a verb's exit code says. 1 is also Python's own, for a bug."""

    OK = 0
    PROBLEM = 1
    USAGE = 2
    MODEL = 3
    ENGINE = 4
    CLOUD = 5
    POLICY = 6
    LEDGER = 7
    STOPPED = 130
    TERMINATED = 143


MEANINGS = {
    Exit.OK: "done",
    Exit.PROBLEM: "doctor found a problem, or a conversion missed a gate",
    Exit.USAGE: "wrong usage or settings",
    Exit.MODEL: "no usable model, or the store failed",
    Exit.ENGINE: "the engine on the device failed or is not installed",
    Exit.CLOUD: "the cloud failed, or device and cloud did",
    Exit.POLICY: "the policy forbids it, or a promise cannot be certified",
    Exit.LEDGER: "the ledger cannot be used",
    Exit.STOPPED: "stopped by Ctrl-C",
    Exit.TERMINATED: "a conversion was stopped by SIGTERM",
}
ERRORS: tuple[tuple[type[EdgeError], Exit], ...] = (
    (ConfigError, Exit.USAGE),
    (ModelError, Exit.MODEL),
    (StoreError, Exit.MODEL),
    (GateFailed, Exit.PROBLEM),
    (ConversionError, Exit.MODEL),
    (EngineError, Exit.ENGINE),
    (MissingExtra, Exit.ENGINE),
    (CloudError, Exit.CLOUD),
    (BothFailed, Exit.CLOUD),
    (PolicyError, Exit.POLICY),
    (LedgerError, Exit.LEDGER),
)


def exit_code(error: EdgeError) -> Exit:
    """The code for an error, by its branch of the tree."""
    return next((code for branch, code in ERRORS if isinstance(error, branch)), Exit.PROBLEM)


def explain_exits() -> str:
    """The codes with their meanings, for the help."""
    return "Exit codes: " + "; ".join(f"{code.value} {meaning}" for code, meaning in MEANINGS.items()) + "."
