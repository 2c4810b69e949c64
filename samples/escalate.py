"""A hard question leaves for a bigger model; what the device had said so far is withdrawn.

    python escalate.py --base-url http://10.0.0.5:8000/v1 --model big-model "Who painted the Mona Lisa?"

The cloud is any server that speaks OpenAI's protocol; its key is read from CLOUD_API_KEY.
"""

import argparse
import os

from edgeai import Delta, Done, Edge, OpenAI, Policy, Replaced

# An answer leaves when its least likely token falls below this. 0.15 suits the default model; try yours.
POLICY = Policy(privacy="allow", min_score=0.15)
NO_CLOUD = "No cloud is given, so every answer is the device's. Give --base-url and --model, or CLOUD_MODEL."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("question", nargs="?", default="Who won the first Nobel Prize in physics?")
    parser.add_argument("--base-url", default=os.environ.get("CLOUD_BASE_URL", "https://api.openai.com/v1"))
    parser.add_argument("--model", default=os.environ.get("CLOUD_MODEL"))
    args = parser.parse_args()

    cloud = None
    if args.model:
        cloud = OpenAI(args.model, base_url=args.base_url, key=os.environ.get("CLOUD_API_KEY"))
    else:
        print(NO_CLOUD)

    speaker = None
    with Edge(cloud=cloud, policy=POLICY) as edge:
        for event in edge.stream(args.question, max_tokens=80):
            match event:
                case Delta(text, source):
                    if source != speaker:
                        print(f"{source}: ", end="")
                    print(text, end="", flush=True)
                    speaker = source
                case Replaced(reason, source):
                    print(f" […]\n  withdrawn ({reason}), now the {source} answers")
                case Done(answer):
                    print(f"\n  {answer.explanation} {answer.disclosed_bytes} bytes left the device.")


if __name__ == "__main__":
    main()
