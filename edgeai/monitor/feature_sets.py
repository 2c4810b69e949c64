"""Sets of features that a fit chooses among, from one signal to all of them."""

from collections.abc import Container, Iterator, Mapping, Sequence

from edgeai.monitor.score import PROBE

__all__ = ["candidates"]

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


def candidates(
    features: Container[str], texts: Mapping[str, Sequence[str | None]]
) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    """(name, numeric features, whether with the categories), simple ones first, for what the data hold."""
    sets = _LABELS if "label_p" in features else _TEXT
    categories = any(len(set(values)) > 1 for values in texts.values())
    probe = (PROBE,) if PROBE in features else ()
    for name, chosen in sets.items():
        yield name, chosen, False
        if categories:
            yield f"{name}+label", chosen, True
        if probe:
            yield f"{name}+probe", (*chosen, *probe), False
        if probe and categories:
            yield f"{name}+label+probe", (*chosen, *probe), True
    everything = next(chosen for name, chosen in sets.items() if name.endswith("all"))
    yield "everything", (*everything, *_PROMPT, *probe), categories
