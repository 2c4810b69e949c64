"""What leaves, with the secrets taken out; and the answer, with the secrets put back. Both are shown.

    python redact.py --base-url http://10.0.0.5:8000/v1 --model big-model "Write to ana@example.com …"

The cloud is any server that speaks OpenAI's protocol; its key is read from CLOUD_API_KEY. Order numbers stand
for whatever secrets your own app knows of. Needs pip install "edgeai[privacy]".
"""

import argparse
import os

from edgeai import Delta, Done, Edge, OpenAI, Policy, Redaction

QUESTION = (
    "Please write two friendly sentences to ana.kovac@example.com, saying that we have received the payment "
    "for order ORD-10023344 with the card 4111 1111 1111 1111, and that the parcel leaves our house tomorrow."
)
POLICY = Policy(
    privacy="redact",
    prefer="cloud",
    redaction=Redaction(patterns={"ORDER": r"ORD-[0-9]{8}"}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("question", nargs="?", default=QUESTION)
    parser.add_argument("--base-url", default=os.environ.get("CLOUD_BASE_URL", "https://api.openai.com/v1"))
    parser.add_argument("--model", default=os.environ.get("CLOUD_MODEL", "gpt-4o-mini"))
    args = parser.parse_args()

    cloud = OpenAI(args.model, base_url=args.base_url, key=os.environ.get("CLOUD_API_KEY"))
    with Edge(cloud=cloud, policy=POLICY) as edge:
        preview = edge.preview(args.question, max_tokens=200)
        print(f"To {preview.endpoint} would go {len(preview.body)} bytes:\n{preview.text}\n")
        for event in edge.stream(args.question, max_tokens=200):
            match event:
                case Delta(text):
                    print(text, end="", flush=True)
                case Done(answer):
                    print(f"\n[{answer.source}, {answer.disclosed_bytes} bytes left] {answer.explanation}")


if __name__ == "__main__":
    main()
