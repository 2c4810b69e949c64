"""A museum's kiosk: visitors ask, a small model answers, and the network is never touched.

One question a line; an empty line is the next visitor, who starts a new conversation.
"""

import sys

from edgeai import Delta, Edge
from edgeai.testing import forbid_network

GUIDE = (
    "You are the guide at the entrance of a natural history museum. The museum is open from 9 to 17. "
    "The dinosaurs are on the first floor, the minerals on the second. Answer in one short sentence."
)


def main() -> None:
    with forbid_network() as attempts, Edge() as edge:
        visitor = edge.chat(GUIDE)
        print("Ask me about the museum.")
        for line in sys.stdin:
            question = line.strip()
            if not question:
                visitor = edge.chat(GUIDE)
                print("\nWelcome! Ask me about the museum.")
                continue
            print(f"> {question}")
            for event in visitor.stream(question, max_tokens=60):
                if isinstance(event, Delta):
                    print(event.text, end="", flush=True)
            print()
        print(f"\nThe network was tried {len(attempts)} times.")


if __name__ == "__main__":
    main()
