"""A smaller model beside the large one, which guesses its next tokens."""

from pathlib import Path

from edgeai.engines import DevicePlan
from edgeai.engines.draft import Drafter
from edgeai.engines.llamacpp.binding import native
from edgeai.engines.llamacpp.context import Context
from edgeai.engines.llamacpp.model import Model
from edgeai.engines.pace import Pacing, SamePace
from edgeai.errors import ModelUnsupported

__all__ = ["DraftModel", "open_draft"]


class DraftModel:
    """A model with a small context of its own, and the `Drafter` that uses it. Made by `open_draft`."""

    def __init__(self, model: Model, n_ctx: int, n_seq: int, plan: DevicePlan, pace: Pacing) -> None:
        self._model = model
        context = Context(
            model,
            n_ctx=n_ctx,
            n_seq=n_seq,
            pace=SamePace(pace),
            kv_type=plan.kv_type,
            n_ubatch=plan.n_ubatch,
            flash_attn=plan.flash_attn,
        )
        self.drafter = Drafter(context, n_seq=n_seq, n_cells=n_ctx)
        self.size_bytes = model.size_bytes + n_ctx * model.kv_bytes(plan.kv_type)

    def free(self) -> None:
        """Give the memory back; when the engine's thread has ended."""
        self.drafter.free()
        self._model.free()


def open_draft(model: Model, n_ctx: int, n_seq: int, plan: DevicePlan, pace: Pacing) -> DraftModel | None:
    """The plan's draft model, None without one; it may read ``n_ctx`` tokens, of ``n_seq`` queries at once.

    Raises ModelUnsupported when its vocabulary is another one than the model's, and what `Model` raises.
    """
    if not plan.draft:
        return None
    gpus = plan.gpus if plan.gpu_layers is None else ()  # what room they have is the model's
    draft = Model(Path(plan.draft), gpus=gpus)
    try:
        _check(model, draft, Path(plan.draft).name)
        return DraftModel(draft, min(n_ctx, draft.n_ctx_train), n_seq, plan, pace)
    except BaseException:
        draft.free()
        raise


def _check(model: Model, draft: Model, name: str) -> None:
    what = f"{name} cannot be the draft model"
    if not (model.rewinds and draft.rewinds):
        raise ModelUnsupported(what, why="A recurrent model cannot forget tokens that were wrong")
    if (why := _difference(model, draft)) is not None:
        remedy = "Use a smaller model of the same family, or leave the draft model out"
        raise ModelUnsupported(what, why=f"Its vocabulary is another one: {why}", remedy=remedy)


def _difference(model: Model, draft: Model) -> str | None:
    """Where two vocabularies differ, in words."""
    if model.n_vocab != draft.n_vocab:
        return f"it has {draft.n_vocab} tokens, and not {model.n_vocab}"
    text = native.llama_vocab_get_text
    for token in range(model.n_vocab):
        ours, theirs = text(model.vocab, token), text(draft.vocab, token)
        if ours != theirs:
            return f"token {token} is {theirs!r}, and not {ours!r}"
    if model.eog != draft.eog:
        return f"its answers end with the tokens {sorted(draft.eog)}, and not {sorted(model.eog)}"
    return None
