"""Questions about a folder of private text files; nothing leaves this machine.

python onprem_documents.py FOLDER "Who may enter the server room?"
"""

import argparse
import re
from pathlib import Path

from numpy import float32
from numpy.linalg import norm
from numpy.typing import NDArray

from edgeai import Edge, Message


def passages(folder: Path) -> list[tuple[str, str]]:
    """The paragraphs of all .txt and .md files, each with its file's name."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".txt", ".md"))
    texts = [(path, path.read_text(encoding="utf-8", errors="replace")) for path in files]
    return [(path.name, part.strip()) for path, text in texts for part in text.split("\n\n") if part.strip()]


def nearest(
    edge: Edge, question: str, found: list[tuple[str, str]], vectors: NDArray[float32]
) -> tuple[str, str]:
    """The passage most like the question. A tiny model's embeddings are coarse, so shared words count too."""
    middle = vectors.mean(axis=0)  # what all passages have in common says nothing
    wanted, away = edge.embed([question])[0] - middle, vectors - middle
    alike = away @ wanted / (norm(away, axis=1) * norm(wanted) + 1e-9)
    asked = words(question)
    shared = [len(asked & words(text)) / max(1, len(asked)) for _, text in found]
    return found[int((alike + shared).argmax())]


def words(text: str) -> set[str]:
    return {word for word in re.findall(r"\w+", text.lower()) if len(word) > 3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("question", nargs="+")
    args = parser.parse_args()
    found = passages(args.folder)
    if not found:
        parser.error(f"There is no text in {args.folder}")
    with Edge() as edge:  # no cloud is given, and the default policy would not let anything leave
        vectors = edge.embed([text for _, text in found])
        for question in args.question:
            name, text = nearest(edge, question, found, vectors)
            rule = Message("system", "Answer from the text you are given, in one sentence.")
            asked = Message("user", f"Text: {text}\n\nQuestion: {question}", private=True)
            answer = edge.ask([rule, asked], max_tokens=80)
            print(f"{question}\n  {answer.text}\n  [{name}] {text}")


if __name__ == "__main__":
    main()
