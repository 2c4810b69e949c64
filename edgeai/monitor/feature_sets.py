"""Sets of features that a fit chooses among, from one signal to all of them."""

from collections.abc import Iterator, Sequence

from edgeai.monitor.examples import Observation
from edgeai.monitor.score import PROBE

__all__ = ["CATEGORIES", "candidates"]

CATEGORIES = ("label", "task")

_LABELS = {
    "p": ("label_u",),
    "log-p": ("label_log_p",),
    "p-mass": ("label_log_p", "label_log_mass"),
    "log-p-mass": ("label_log_p_mass",),
    "label-core": ("label_u", "label_log_p", "label_entropy", "label_log_mass"),
    "label-all": (
        "label_u", "label_log_p", "label_margin", "label_log_odds", "label_entropy", "label_plain_u",
        "label_logprob", "label_log_mass", "label_first_u", "label_second_u",
    ),
}  # fmt: skip
_TEXT = {
    "sum": ("sum_logprob",),
    "min": ("min_logprob",),
    "mean": ("mean_logprob",),
    "sum-min": ("sum_logprob", "min_logprob"),
    "core": ("sum_logprob", "min_logprob", "mean_logprob", "log_length", "first_logprob", "mean_entropy"),
    "span": ("sum_logprob", "min_logprob", "span_sum_logprob", "span_min_logprob", "log_length"),
    "text-all": (
        "sum_logprob", "min_logprob", "mean_logprob", "log_length", "first_logprob", "first_margin",
        "first_entropy", "mean_entropy", "worst_window_entropy", "mean_margin", "share_below_half",
        "lowest_window_logprob", "worst_decile_logprob", "distinct_3", "hit_limit", "logprob_q10",
        "logprob_q25", "logprob_q50", "logprob_q75", "logprob_q100", "span_sum_logprob",
        "span_mean_logprob", "span_min_logprob", "span_share",
    ),
}  # fmt: skip
_PROMPT = ("prompt_log_length", "prompt_digits", "prompt_code", "prompt_latex", "prompt_choices")


def candidates(seen: Sequence[Observation], *, with_probe: bool) -> list[tuple[str, tuple[str, ...], bool]]:
    """(name, numeric features, whether with the categories), simple ones first."""
    return list(_candidates(seen, with_probe=with_probe))


def _candidates(
    seen: Sequence[Observation], *, with_probe: bool
) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    labels = any(item.features.get("label_p") is not None for item in seen)
    sets = _LABELS if labels else _TEXT
    categories = any(len({item.categories.get(name) for item in seen}) > 1 for name in CATEGORIES)
    for name, features in sets.items():
        yield name, features, False
        if categories:
            yield f"{name}+label", features, True
        if with_probe:
            yield f"{name}+probe", (*features, PROBE), False
            if categories:
                yield f"{name}+label+probe", (*features, PROBE), True
    everything = next(features for name, features in sets.items() if name.endswith("all"))
    yield "everything", (*everything, *_PROMPT, *((PROBE,) if with_probe else ())), categories
