"""What an answer costs."""

from dataclasses import dataclass

from edgeai.types import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """US dollars per million tokens; ``cached_usd`` None means that cached prompt tokens cost the full price."""

    prompt_usd: float
    completion_usd: float
    cached_usd: float | None = None

    def cost(self, usage: Usage) -> float | None:
        """The price of these tokens in US dollars, or None when the counts are not known."""
        if usage.prompt_tokens is None or usage.completion_tokens is None:
            return None
        cached = usage.cached_tokens or 0
        cached_usd = self.prompt_usd if self.cached_usd is None else self.cached_usd
        prompt = (usage.prompt_tokens - cached) * self.prompt_usd + cached * cached_usd
        return (prompt + usage.completion_tokens * self.completion_usd) / 1e6
