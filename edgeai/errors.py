"""Everything that edgeai raises on purpose, as one tree.

    EdgeError
    ├── ConfigError              a setting, keyword or option is unknown or out of range
    ├── MissingExtra             a pip extra is not installed
    ├── ModelError
    │   ├── ModelNotFound        no such name in the catalog, no such file
    │   ├── ModelCorrupt         wrong hash, truncated, damaged header
    │   ├── ModelTooLarge        more parameters than the device class this SDK is for
    │   ├── ModelUntrusted       a bundle that nobody trusted has signed
    │   └── ModelUnsupported     an architecture, format or template we cannot run
    ├── StoreError
    │   ├── DownloadFailed       no source gave the file
    │   ├── DiskFull             not enough room for it
    │   └── StoreLocked          another process holds the store
    ├── EngineError
    │   ├── EngineLoadFailed     the native library refused the model
    │   ├── OutOfMemory          weights or KV cache do not fit
    │   ├── DeviceUnavailable    the device that was asked for cannot run the model
    │   ├── EngineCrashed        the engine's thread or process died
    │   │   └── EngineClosed     the engine, or its Edge, was closed before
    │   ├── ContextOverflow      the prompt is longer than the context
    │   ├── QueueFull            too many queries wait already
    │   └── Cancelled            the caller cancelled the query
    ├── CloudError
    │   ├── CloudAuth            the key is missing, wrong or not allowed
    │   ├── CloudRateLimited     too many requests
    │   ├── CloudTimeout         connect, first token, between tokens or total
    │   ├── CloudUnavailable     no connection, or a 5xx answer
    │   ├── CloudProtocol        an answer that is not what the protocol says
    │   └── CloudRefused         the model, or its provider's filter, will not answer
    ├── PolicyError
    │   ├── PrivacyViolation     bytes would leave that may not
    │   ├── BudgetExceeded       the answer would cost more than is left
    │   ├── ContractInfeasible   the data cannot support the promise asked for
    │   └── ContractInvalid      a contract's file is damaged, changed or not one of ours
    ├── ConversionError
    │   └── GateFailed           the converted model is not the same model any more
    ├── LedgerError              the record of queries cannot be read or written
    └── BothFailed               the device failed and the cloud failed; holds both causes

Leaves also inherit the builtin that fits (``TimeoutError``, ``MemoryError``, …), so that code which does
not know edgeai catches them. Foreign exceptions are mapped in one place per library; a ``TypeError`` from
a bug of ours stays a ``TypeError``.
"""

from collections.abc import Sequence
from typing import ClassVar, Self


class EdgeError(Exception):
    """Base of all errors. ``what`` happened, ``why``, and the ``remedy``, each a sentence or None."""

    retryable: ClassVar[bool] = False

    def __init__(self, what: str, *, why: str | None = None, remedy: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.remedy = remedy

    def __str__(self) -> str:
        return " ".join(_sentence(part) for part in (self.what, self.why, self.remedy) if part)


def _sentence(text: str) -> str:
    return text if text.endswith(("?", "!")) else f"{text.rstrip('.')}."


class ConfigError(EdgeError, ValueError):
    """A setting, keyword or option is unknown or out of range."""


class MissingExtra(EdgeError, ImportError):
    """A pip extra is not installed."""

    def __init__(self, what: str, *, extra: str = "", why: str | None = None) -> None:
        super().__init__(
            what, why=why, remedy=f'Install it: pip install "edgeai[{extra}]"' if extra else None
        )
        self.extra = extra


class ModelError(EdgeError):
    """Something is wrong with a model file or its name."""


class ModelNotFound(ModelError, FileNotFoundError):
    """No such name in the catalog, or no such file."""


class ModelCorrupt(ModelError):
    """Wrong hash, truncated file, or damaged header."""


class ModelTooLarge(ModelError):
    """More parameters than this SDK is made for."""


class ModelUntrusted(ModelError, PermissionError):
    """A bundle without a signature, with a wrong one, or signed by a key that is not trusted."""


class ModelUnsupported(ModelError):
    """An architecture, format or chat template that cannot be run."""


class StoreError(EdgeError):
    """The model store could not do what was asked."""


class DownloadFailed(StoreError, ConnectionError):
    """No source gave the file."""

    retryable = True


class DiskFull(StoreError, OSError):
    """Not enough room, or no permission to write."""


class StoreLocked(StoreError, TimeoutError):
    """Another process holds the store's lock."""

    retryable = True


class EngineError(EdgeError):
    """The engine on the device could not answer."""


class EngineLoadFailed(EngineError):
    """The native library refused the model."""


class OutOfMemory(EngineError, MemoryError):
    """Weights, KV cache or buffers do not fit into memory."""


class DeviceUnavailable(EngineError):
    """The device or execution provider that was asked for cannot run the model; why, for each of them."""


class EngineCrashed(EngineError):
    """The engine's thread or process died."""

    retryable = True


class EngineClosed(EngineCrashed):
    """The engine, or its `Edge`, was closed before: asking again is idle, and no reason to ask a cloud."""

    retryable = False


class ContextOverflow(EngineError, ValueError):
    """The prompt is longer than the context; both in tokens."""

    def __init__(self, what: str, *, n_prompt: int = 0, n_ctx: int = 0, remedy: str | None = None) -> None:
        super().__init__(what, remedy=remedy)
        self.n_prompt = n_prompt
        self.n_ctx = n_ctx


class QueueFull(EngineError):
    """Too many queries wait already."""

    retryable = True


class Cancelled(EngineError):
    """The caller cancelled the query."""


class CloudError(EdgeError):
    """The cloud could not answer. ``sends``: how often the query may have left the device, tries together."""

    sends: int = 1

    @property
    def sent(self) -> bool:
        """Whether bytes of the query may have left the device."""
        return self.sends > 0


class CloudAuth(CloudError, PermissionError):
    """The key is missing, wrong, or not allowed to use the model."""


class CloudRateLimited(CloudError):
    """Too many requests; ``retry_after_s`` is the server's wish in seconds, None if it gave none."""

    retryable = True

    def __init__(
        self,
        what: str,
        *,
        why: str | None = None,
        remedy: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(what, why=why, remedy=remedy)
        self.retry_after_s = retry_after_s


class CloudTimeout(CloudError, TimeoutError):
    """No connection, no first token, no next token, or no end in time."""

    retryable = True


class CloudUnavailable(CloudError, ConnectionError):
    """No connection, or the server answered 5xx."""

    retryable = True


class CloudProtocol(CloudError):
    """An answer that is not what the protocol says."""


class CloudRefused(CloudError):
    """The model, or its provider's filter, will not answer this question."""


class PolicyError(EdgeError):
    """The app's policy forbids what was asked."""


class PrivacyViolation(PolicyError, PermissionError):
    """Bytes would leave the device that may not."""


class BudgetExceeded(PolicyError):
    """The answer would cost more than is left."""


class ContractInfeasible(PolicyError):
    """The data cannot support the promise; ``labels`` would be needed, None where no number would do."""

    def __init__(
        self, what: str, *, why: str | None = None, remedy: str | None = None, labels: int | None = None
    ) -> None:
        super().__init__(what, why=why, remedy=remedy)
        self.labels = labels


class ContractInvalid(PolicyError, ValueError):
    """A contract's file is damaged, was changed, or is not one of ours."""


class ConversionError(EdgeError):
    """A model could not be converted."""


class GateFailed(ConversionError):
    """The converted model is not the same model any more; ``proof`` is what was measured, None if nothing."""

    def __init__(
        self, what: str, *, why: str | None = None, remedy: str | None = None, proof: object | None = None
    ) -> None:
        super().__init__(what, why=why, remedy=remedy)
        self.proof = proof


class LedgerError(EdgeError):
    """The record of queries cannot be read or written."""


class BothFailed(EdgeError, ExceptionGroup[EdgeError]):
    """The device failed and the cloud failed; ``exceptions`` holds both causes, device first."""

    def __new__(cls, what: str, causes: Sequence[EdgeError]) -> Self:
        return super().__new__(cls, what, list(causes))

    def __init__(self, what: str, causes: Sequence[EdgeError]) -> None:
        super().__init__(what, why="; ".join(str(cause).rstrip(".") for cause in causes))

    def __reduce__(self) -> tuple[type["BothFailed"], tuple[str, tuple[EdgeError, ...]]]:
        return BothFailed, (self.what, self.exceptions)  # type: ignore[return-value]  # leaves, never groups

    def derive(self, excs: Sequence[EdgeError]) -> "BothFailed":  # type: ignore[override]  # narrower by design
        """The same failure with other causes; ``except*`` and ``split`` need it."""
        return BothFailed(self.what, excs)
