"""What an exception of Python's own means when it comes out of an engine."""

from edgeai.errors import EngineCrashed, EngineError, OutOfMemory

__all__ = ["failure_of", "no_room"]


def failure_of(what: str, error: Exception) -> EngineError:
    """``what`` failed by this: the end of memory, or else a bug, whose traceback stays to be read."""
    crash = no_room(error) if isinstance(error, MemoryError) else EngineCrashed(what, why=repr(error))
    crash.__cause__ = error
    return crash


def no_room(error: BaseException, what: str = "The engine has no more memory") -> OutOfMemory:
    """The typed form of a MemoryError, and of a thread that could not be started."""
    return OutOfMemory(what, why=str(error) or None, remedy="Allow it more, or use a smaller n_ctx or model")
