"""The first answers: ask, stream, choose and extract, all on this device.

Once: edgeai models pull smollm2-135m-instruct
"""

from edgeai import Delta, Done, Edge

EXAMPLES = [
    ("I was charged twice", "billing"),
    ("Where is my parcel?", "shipping"),
    ("Do you have a shop in Rome?", "other"),
]
REMINDER = {
    "type": "object",
    "properties": {
        "who": {"type": "string", "maxLength": 20},
        "day": {"enum": ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday"]},
    },
    "required": ["who", "day"],
    "additionalProperties": False,
}


def main() -> None:
    with Edge("smollm2-135m-instruct") as edge:
        answer = edge.ask("Name the chemical symbol for gold.")
        print(answer.text)

        for event in edge.stream("Why is the sky blue?", max_tokens=60):
            match event:
                case Delta(text):
                    print(text, end="", flush=True)
                case Done(answer):
                    print(f"\n  [{answer.source}, {answer.model}: {answer.explanation}]")

        choice = edge.choose("My parcel is late", ["billing", "shipping", "other"], examples=EXAMPLES)
        print(f"{choice.label}, at {choice.answer.score:.0%}")

        reminder = edge.extract("Call Ana on Friday", REMINDER, max_tokens=60)
        print(reminder.value)


if __name__ == "__main__":
    main()
