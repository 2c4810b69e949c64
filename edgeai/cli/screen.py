"""How a stream of events looks: text as it comes, withdrawn text visibly replaced, one line at the end."""

import math
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from edgeai import Answer, Delta, Done, EdgeError, Replaced, Stream

# Control characters in a model's text could move the cursor or fake other output.
UNPRINTABLE = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def show(stream: Stream, *, may_leave: bool) -> Answer:
    """Write the answer's text to stdout and return the answer. Ctrl-C ends the stream, not the program.

    On a terminal a withdrawn text is struck through. Elsewhere only the final text is written: at once where
    nothing can replace it, else at the end.
    """
    console = Console(highlight=False)
    with stream, _stoppable(stream):
        if not console.is_terminal:
            return _show_final(stream, held=may_leave)
        try:
            return _show_live(stream, console)
        except EdgeError:
            _write("\n")  # the error must not stand in the middle of a line
            raise


def summary(answer: Answer) -> str:
    """One line for people: source, model, confidence, time to first token, tokens per second, cost."""
    timing = answer.timing
    ttft = "unknown" if timing.ttft_s is None else f"{timing.ttft_s:.2f} s"
    parts = [
        f"{answer.source} ({answer.reason.value})",
        answer.model,
        _confidence(answer),
        f"first token {ttft}",
        "speed unknown" if timing.decode_tps is None else f"{timing.decode_tps:.0f} tok/s",
        "cost unknown" if answer.cost_usd is None else f"${answer.cost_usd:.6f}".rstrip("0").rstrip("."),
    ]
    ends = {"length": "cut off at --max-tokens", "cancelled": "stopped"}
    return " · ".join([*parts, *([ends[answer.finish_reason]] if answer.finish_reason in ends else [])])


def write_summary(answer: Answer) -> None:
    """Write the summary to stderr."""
    Console(stderr=True, highlight=False).print(Text(summary(answer), style="dim"), soft_wrap=True)


def _confidence(answer: Answer) -> str:
    if answer.confidence is not None:
        return f"confidence {answer.confidence:.0%}, {'certified' if answer.certified else 'not certified'}"
    if answer.score is not None:
        return f"{answer.score_name} {answer.score:.2f} (uncalibrated)"
    return "confidence unknown"


def _show_final(stream: Stream, *, held: bool) -> Answer:
    for event in stream:
        if isinstance(event, Delta) and not held:
            _write(event.text)
        elif isinstance(event, Done):
            _write(event.answer.text if held else "")
            _write("" if event.answer.text.endswith("\n") else "\n")
            return event.answer
    raise RuntimeError("the stream ended without an answer")


def _show_live(stream: Stream, console: Console) -> Answer:
    shown = ""
    for event in stream:
        match event:
            case Delta():
                text = event.text.translate(UNPRINTABLE)
                shown += text
                _write(text)
            case Replaced():
                _strike(shown, console)
                console.print(f"— replaced by the {event.source}: {event.reason.value} —", style="yellow")
                shown = ""
            case Done():
                _write("" if shown.endswith("\n") else "\n")
                return event.answer
    raise RuntimeError("the stream ended without an answer")


def _strike(shown: str, console: Console) -> None:
    """Write the text again where it stands, struck through, if all of it is still on the screen."""
    width, height = console.size
    rows = sum(max(1, math.ceil(cell_len(line.expandtabs()) / width)) for line in shown.split("\n"))
    if rows < height and not console.is_dumb_terminal:
        up = f"\x1b[{rows - 1}A" if rows > 1 else ""
        _write(f"\r{up}\x1b[J")
        console.print(Text(shown, style="dim strike"))
    elif shown:
        _write("\n")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


@contextmanager
def _stoppable(stream: Stream) -> Iterator[None]:
    """Let the first Ctrl-C end the stream with what it has; a second one interrupts as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = signal.getsignal(signal.SIGINT)

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, usual)
        # Not here: the interrupted code may hold the stream's lock.
        threading.Thread(target=stream.cancel, name="edgeai-stop").start()

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
