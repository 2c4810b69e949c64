"""A chat window: the answer streams in, where it came from is shown, and Stop works."""

import threading
import tkinter as tk
from queue import SimpleQueue
from tkinter import ttk

from edgeai import Delta, Done, Edge, EdgeError, Event, Replaced, Stream


def read(stream: Stream, events: SimpleQueue[Event | EdgeError]) -> None:
    """Run in a thread of its own, which waits so that the window need not, and knows no widget."""
    try:
        for event in stream:
            events.put(event)
    except EdgeError as error:
        events.put(error)


class Window(tk.Tk):
    """The chat; it looks into the queue 30 times a second."""

    def __init__(self, edge: Edge) -> None:
        super().__init__()
        self.title(f"Chat with {edge.info.model}")
        self.chat = edge.chat("You are a helpful assistant. Answer briefly.")
        self.stream: Stream | None = None
        self.events: SimpleQueue[Event | EdgeError] = SimpleQueue()
        ttk.Style(self).theme_use("clam")
        bar = ttk.Frame(self, padding=10)
        self.entry = ttk.Entry(bar, font=("TkDefaultFont", 12))
        self.ask_button = ttk.Button(bar, text="Ask", command=self.ask)
        self.stop_button = ttk.Button(bar, text="Stop", command=self.stop, state="disabled")
        self.log = tk.Text(self, width=72, height=22, padx=18, pady=10, relief="flat", wrap="word")
        self.log.configure(font=("TkDefaultFont", 12), background="white", foreground="#1f2328", spacing2=3)
        self.log.tag_configure("you", foreground="#0b57d0", spacing1=16, spacing3=6)
        self.log.tag_configure(
            "note", foreground="#6b7280", spacing1=6, spacing3=4, font=("TkDefaultFont", 9)
        )
        self.log.tag_configure("withdrawn", foreground="#9ca3af", overstrike=True)
        bar.pack(side="bottom", fill="x")
        self.log.pack(fill="both", expand=True)
        self.stop_button.pack(side="right")
        self.ask_button.pack(side="right", padx=6)
        self.entry.pack(fill="x", expand=True, ipady=4)
        self.entry.bind("<Return>", lambda event: self.ask())
        self.entry.focus()
        self.poll()

    def ask(self) -> None:
        question = self.entry.get().strip()
        if question and self.stream is None:
            self.entry.delete(0, "end")
            self.write(f"{question}\n", "you")
            self.busy(self.chat.stream(question))

    def busy(self, stream: Stream | None) -> None:
        self.stream = stream
        self.ask_button["state"] = "disabled" if stream else "normal"
        self.stop_button["state"] = "normal" if stream else "disabled"
        if stream:
            threading.Thread(target=read, args=(stream, self.events), daemon=True).start()

    def poll(self) -> None:
        while not self.events.empty():
            self.show(self.events.get())
        self.after(33, self.poll)

    def show(self, event: Event | EdgeError) -> None:
        match event:
            case Delta(text):
                self.write(text, "answer")
            case Replaced(reason, source):
                self.log.tag_add("withdrawn", *self.log.tag_ranges("answer")[-2:])
                self.write(f"\nwithdrawn: {reason}; now the {source} answers\n", "note")
            case Done(answer):
                stopped = ", stopped" if answer.finish_reason == "cancelled" else ""
                self.write(f"\n{answer.source}: {answer.model}{stopped}\n", "note")
                self.busy(None)
            case EdgeError():
                self.write(f"{event}\n", "note")
                self.busy(None)

    def write(self, text: str, tag: str) -> None:
        self.log["state"] = "normal"  # only the program writes here
        self.log.insert("end", text, tag)
        self.log["state"] = "disabled"
        self.log.see("end")

    def stop(self) -> None:
        if self.stream:
            self.stream.cancel()

    def destroy(self) -> None:
        self.stop()
        super().destroy()


def main() -> None:
    with Edge() as edge:
        window = Window(edge)
        window.mainloop()


if __name__ == "__main__":
    main()
