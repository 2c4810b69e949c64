"""Label likelihoods and sentence vectors of the real model."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest

from edgeai.engines.llamacpp.context import Context
from edgeai.engines.llamacpp.engine import LlamaCppEngine
from edgeai.engines.pace import Pace
from edgeai.errors import ConfigError, ContextOverflow
from tests.engines.conftest import alike, request

PROMPT = "The capital of France is"
LABELS = [" Paris", " London", " Berlin, which is of course wrong", "!"]


def stepwise(engine: LlamaCppEngine, prompt: str, label: str) -> float:
    """The label's log-probability, one token a batch, in float64."""
    head, full = engine.tokenize(prompt), engine.tokenize(prompt + label)
    assert full[: len(head)] == head
    context = Context(engine._model, n_ctx=256, n_seq=1, pace=Pace(1, follow_load=False))
    total = 0.0
    try:
        for i, (token, following) in enumerate(pairwise(full)):
            row = context.add([token], i, 0, outputs=1)
            assert context.decode() == 0
            if i >= len(head) - 1:
                logits = context.logits(row).astype(np.float64)
                total += logits[following] - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    finally:
        context.free()
    return total


def test_scores_equal_the_sum_of_steps(engine: LlamaCppEngine) -> None:
    """Scores from shared prefixes and scratch sequences agree with decoding token by token."""
    scores = engine.score(PROMPT, LABELS)
    assert scores == pytest.approx([stepwise(engine, PROMPT, label) for label in LABELS], abs=0.05)
    assert max(scores) == scores[0]
    assert max(scores) <= 0


def test_scores_repeat_and_do_not_depend_on_the_company(engine: LlamaCppEngine) -> None:
    """More labels than scratch sequences, in any order, give each label its own score."""
    cities = ("Paris", "London", "Rome", "Oslo", "Bern", "Wien", "Kiev", "Baku", "Lima", "Doha")
    many = [f" {city}" for city in cities]
    scores = engine.score(PROMPT, many)
    assert engine.score(PROMPT, many[::-1])[::-1] == pytest.approx(scores, abs=0.02)
    assert engine.score(PROMPT, many[:1])[0] == pytest.approx(scores[0], abs=0.02)


def test_a_label_that_merges_with_the_prompt_is_scored_fairly(engine: LlamaCppEngine) -> None:
    """Where the tokens of prompt and label merge, all labels start from the last shared token."""
    assert engine.tokenize("The colour is re")[-1] not in engine.tokenize("The colour is red")
    good, bad = engine.score("The colour is re", ["d", "zq"])
    assert good > bad


def test_scoring_leaves_streams_alone(engine: LlamaCppEngine) -> None:
    """A stream that runs while others score and embed gives the same text as alone."""
    alone = list(engine.stream(request("Name two rivers.")))
    generation = engine.stream(request("Name two rivers."))
    engine.score(PROMPT, LABELS)
    engine.embed(["some text"])
    alike(alone, list(generation))


def test_many_scorers_wait_their_turn(engine: LlamaCppEngine) -> None:
    """More scorers at once than sequences, and nothing else going on: all are answered, and equally."""
    with ThreadPoolExecutor(8) as pool:
        scores = list(pool.map(lambda _: engine.score(PROMPT, LABELS[:2]), range(8)))
    assert scores == [pytest.approx(scores[0], abs=0.1)] * 8  # batches of other sizes round otherwise


@pytest.mark.parametrize(("prompt", "labels"), [("", ["a"]), ("a", ["b", ""])])
def test_nothing_to_score_is_a_config_error(engine: LlamaCppEngine, prompt: str, labels: list[str]) -> None:
    """An empty prompt or label has no likelihood."""
    with pytest.raises(ConfigError, match="score"):
        engine.score(prompt, labels)


def test_no_labels_have_no_scores(engine: LlamaCppEngine) -> None:
    """An empty list is answered by an empty tuple."""
    assert engine.score(PROMPT, []) == ()


def test_vectors_have_length_one_and_repeat(engine: LlamaCppEngine) -> None:
    """Embeddings are unit vectors, equal for equal texts, and nearer for similar ones."""
    texts = [
        "The cat sits on the mat.",
        "A cat is sitting on a mat.",
        "Quarterly revenue rose.",
        "The cat sits on the mat.",
    ]
    vectors = engine.embed(texts)
    assert vectors.shape == (4, engine.info.n_embd)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert np.array_equal(vectors[0], vectors[3])
    assert np.array_equal(vectors, engine.embed(texts))
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]


def test_a_long_text_is_embedded_in_chunks(engine: LlamaCppEngine) -> None:
    """A text of several chunks is the mean over all of its tokens."""
    (vector,) = engine.embed(["one two three four five six seven eight nine ten " * 15])
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_texts_that_cannot_be_embedded(small_engine: LlamaCppEngine) -> None:
    """Empty and too long texts have their own errors, and no texts give no vectors."""
    with pytest.raises(ConfigError, match="empty"):
        small_engine.embed(["ok", ""])
    with pytest.raises(ContextOverflow):
        small_engine.embed(["word " * 200])
    assert small_engine.embed([]).shape == (0, small_engine.info.n_embd)
