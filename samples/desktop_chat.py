"""A chat window: the answer streams in, where it came from is shown, and Stop works."""

from tkinter import Text, Tk, ttk

from edgeai import Delta, Done, Edge, EdgeError, Replaced, Stream


class Window(Tk):
    def __init__(self, edge: Edge) -> None:
        super().__init__()
        self.title(f"Chat with {edge.info.model}")
        self.chat = edge.chat("You are a helpful assistant. Answer briefly.")
        self.stream: Stream | None = None
        self.log = Text(self, width=72, height=22, padx=18, pady=10, wrap="word", background="white")
        self.log.tag_configure("you", foreground="#0b57d0", spacing1=16, spacing3=6)
        self.log.tag_configure("note", foreground="#6b7280", font=("TkDefaultFont", 9))
        self.log.tag_configure("withdrawn", foreground="#9ca3af", overstrike=True)
        self.stop_button = ttk.Button(self, text="Stop", command=self.stop)
        self.entry = ttk.Entry(self, font=("TkDefaultFont", 12))
        self.entry.bind("<Return>", lambda event: self.ask())
        self.bind("<Destroy>", lambda event: self.stop())
        self.log.pack(fill="both", expand=True)
        self.stop_button.pack(side="right", padx=10, pady=10)
        self.entry.pack(fill="x", expand=True, padx=10, ipady=4)

    def ask(self) -> None:
        if self.stream is None and (question := self.entry.get().strip()):
            self.entry.delete(0, "end")
            self.log.insert("end", f"{question}\n", "you")
            self.stream = self.chat.stream(question)
            self.poll(self.stream)

    def poll(self, stream: Stream) -> None:  # 30 times a second, while the engine works in its own thread
        try:
            for event in stream.ready():
                match event:
                    case Delta(text):
                        self.log.insert("end", text, "answer")
                    case Replaced(reason):
                        self.log.tag_add("withdrawn", *self.log.tag_ranges("answer")[-2:])
                        self.log.insert("end", f"\nwithdrawn: {reason}\n", "note")
                    case Done(answer):
                        self.log.insert("end", f"\n{answer.source}, {answer.finish_reason}\n", "note")
                        self.stream = None
                self.log.see("end")
        except EdgeError as error:
            self.log.insert("end", f"{error}\n", "note")
            self.stream = None
        if self.stream:
            self.after(33, self.poll, stream)

    def stop(self) -> None:
        if self.stream:
            self.stream.cancel()


if __name__ == "__main__":
    with Edge() as loaded:
        Window(loaded).mainloop()
