"""Weights and vocabulary of one GGUF file."""

import ctypes
import hashlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from edgeai.engines.llamacpp.binding import complaints, native, refusal, start
from edgeai.engines.llamacpp.devices import selection
from edgeai.engines.text import utf8
from edgeai.errors import EngineCrashed, ModelNotFound, ModelUnsupported

__all__ = ["KvType", "Model"]

KvType: TypeAlias = Literal["f16", "q8_0"]

_PIECE_BYTES: Final = 64  # enough for nearly all tokens


class Model:
    """A loaded model: on ``gpus`` (ggml's names), if there are any, its last ``gpu_layers``, or all (None).

    Vocabulary methods are safe from any thread, and fail after `free`.

    Raises ModelNotFound, ModelUnsupported, EngineLoadFailed or OutOfMemory.
    """

    def __init__(
        self,
        path: Path,
        adapters: Mapping[str, Path] = MappingProxyType({}),
        gpus: tuple[str, ...] = (),
        gpu_layers: int | None = None,
    ) -> None:
        start()
        if not path.is_file():
            raise ModelNotFound(f"There is no model file at {path}", remedy="Pull or import the model first")
        self._lock = threading.Lock()
        self._pieces: dict[int, bytes] = {}
        self.handle: int | None = _load(path, gpus, gpu_layers)
        try:
            self._learn(adapters)
        except BaseException:
            native.llama_model_free(self.handle)
            raise

    def _learn(self, adapters: Mapping[str, Path]) -> None:
        self.adapters = {name: self._adapter(name, file) for name, file in adapters.items()}
        """LoRA adapters by name; llama.cpp frees them with the model."""
        self.vocab: int | None = native.llama_model_get_vocab(self.handle)
        self.n_vocab: int = native.llama_vocab_n_tokens(self.vocab)
        self.n_embd: int = native.llama_model_n_embd_out(self.handle)
        self.n_ctx_train: int = native.llama_model_n_ctx_train(self.handle)
        self.n_params: int = native.llama_model_n_params(self.handle)
        self.size_bytes: int = native.llama_model_size(self.handle)
        self.bos: int = native.llama_vocab_bos(self.vocab)
        self.eos: int = native.llama_vocab_eos(self.vocab)
        self.add_bos: bool = native.llama_vocab_get_add_bos(self.vocab)
        ids = range(self.n_vocab)
        self.eog = frozenset(i for i in ids if native.llama_vocab_is_eog(self.vocab, i))
        self.control = frozenset(i for i in ids if native.llama_vocab_is_control(self.vocab, i))
        self.rewinds = not (
            native.llama_model_is_recurrent(self.handle) or native.llama_model_is_hybrid(self.handle)
        )
        """Whether a part of a sequence can be forgotten again (recurrent state cannot)."""
        self.chat_template = self._chat_template()
        self.quantization = self._quantization()
        """The file's quantization, such as ``Q4_1`` or ``Q4_K_M``."""
        self.n_inactive = self._n_inactive()
        """Parameters of experts that a token does not go through."""
        self.kv_bytes_per_token = self._kv_bytes_per_token()
        """Bytes of KV cache (16-bit) that one token takes in all layers."""

    def free(self) -> None:
        """Give the memory back; only when no context is left."""
        with self._lock:
            handle, self.handle, self.vocab = self.handle, None, None
        if handle is not None:
            native.llama_model_free(handle)

    def _adapter(self, name: str, path: Path) -> object:
        with complaints() as heard:
            handle = native.llama_adapter_lora_init(self.handle, os.fsencode(path))
        if not handle:
            raise refusal(f"llama.cpp cannot load the adapter {name} from {path.name}", heard)
        return handle

    def tokenize(self, text: str, *, special: bool = False, whole: bool = False) -> list[int]:
        """Token ids of ``text``; ``special`` reads control tokens, ``whole`` adds what starts a document.

        Raises ConfigError for text that has no UTF-8 form, EngineCrashed when the model is closed.
        """
        data = utf8(text)
        capacity = len(data) + 4
        with self._lock:
            vocab = self.check_open()
            while True:
                ids = (ctypes.c_int32 * capacity)()
                count = native.llama_tokenize(vocab, data, len(data), ids, capacity, whole, special)
                if count >= 0:
                    return ids[:count]
                capacity = -count

    def piece(self, token: int) -> bytes:
        """The bytes that ``token`` stands for, empty for control tokens; not after `free`."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._bytes(token, special=False)
        return piece

    def name_of(self, token: int) -> str:
        """A special token as text, empty when there is none."""
        return self._bytes(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    def vocabulary(self) -> list[bytes]:
        """The bytes of all tokens; those of control tokens start with 0xff, as llguidance wants it."""
        return [
            b"\xff" + self._bytes(token, special=True) if self._is_special(token) else self.piece(token)
            for token in range(self.n_vocab)
        ]

    def check_open(self) -> int:
        """The native vocabulary. Raises EngineCrashed after `free`."""
        if self.vocab is None:
            raise EngineCrashed("The engine is closed", remedy="Open the model again")
        return self.vocab

    def with_vocab(self, make: Callable[[list[bytes], int, int, list[int]], object]) -> object:
        """``make`` of all tokens, the native vocabulary, llama.cpp's tokenizer, and the end tokens."""
        with self._lock:
            vocab = self.check_open()
            tokenizer = ctypes.cast(native.llama_tokenize, ctypes.c_void_p).value or 0
            ends = sorted(self.eog, key=lambda token: token != self.eos)
            return make(self.vocabulary(), vocab, tokenizer, ends)

    def meta(self, key: str) -> str | None:
        """A metadata value of the file as text, None when it is not there."""
        size = native.llama_model_meta_val_str(self.handle, key.encode(), None, 0)
        if size < 0:
            return None
        buffer = ctypes.create_string_buffer(size + 1)
        native.llama_model_meta_val_str(self.handle, key.encode(), buffer, size + 1)
        return buffer.value.decode("utf-8", "replace")

    def _quantization(self) -> str:
        name = native.llama_ftype_name(native.llama_model_ftype(self.handle)) or b"unknown"
        text = str(name.decode()).replace("(guessed)", "").strip()
        for long, short in ((" - Small", "_S"), (" - Medium", "_M"), (" - Large", "_L")):
            text = text.replace(long, short)
        return text

    def _kv_bytes_per_token(self) -> int:
        heads = native.llama_model_n_head(self.handle) or 1
        head = native.llama_model_n_embd(self.handle) // heads
        key, value = (int(self._arch_meta(f"attention.{kind}_length") or head) for kind in ("key", "value"))
        return (
            int(native.llama_model_n_layer(self.handle) * native.llama_model_n_head_kv(self.handle))
            * 2
            * (key + value)
        )

    def _n_inactive(self) -> int:
        """Each expert of a layer has three matrices (gate, up, down) of the experts' width."""
        n_experts, n_used, width, own = (
            int(self._arch_meta(key) or 0)
            for key in (
                "expert_count",
                "expert_used_count",
                "feed_forward_length",
                "expert_feed_forward_length",
            )
        )
        if n_experts <= n_used:
            return 0
        if str(self.meta("general.architecture")).startswith("qwen"):
            width = own or width // n_used
        sizes = native.llama_model_n_layer(self.handle) * native.llama_model_n_embd(self.handle)
        return 3 * int(sizes) * width * (n_experts - n_used)

    def kv_bytes(self, kv_type: KvType) -> int:
        """Bytes of KV cache that one token takes in all layers; 8 bits have a scale for every 32 values."""
        return self.kv_bytes_per_token * 34 // 64 if kv_type == "q8_0" else self.kv_bytes_per_token

    def layout(self, n_ctx: int, kv_type: KvType) -> str:
        """What a token's keys and values depend on beside the model: their type, and rarely the context."""
        scaled = self._arch_meta("rope.scaling.type") == "longrope"  # one set of factors beyond a length
        return f"{kv_type} n_ctx {n_ctx}" if scaled else kv_type

    @property
    def template_hash(self) -> str:
        """SHA-256 of the chat template's source."""
        return hashlib.sha256((self.chat_template or "").encode()).hexdigest()

    def _arch_meta(self, key: str) -> str | None:
        return self.meta(f"{self.meta('general.architecture')}.{key}")

    def _chat_template(self) -> str | None:
        source = native.llama_model_chat_template(self.handle, None)
        return None if source is None else str(source.decode("utf-8", "replace"))

    def _is_special(self, token: int) -> bool:
        attributes = native.llama_vocab_get_attr(self.vocab, token)
        if attributes & native.LLAMA_TOKEN_ATTR_CONTROL:
            return True
        name = self._bytes(token, special=True)
        own = attributes & native.LLAMA_TOKEN_ATTR_USER_DEFINED
        return bool(own) and name.startswith(b"<") and name.endswith(b">")

    def _bytes(self, token: int, *, special: bool) -> bytes:
        buffer = ctypes.create_string_buffer(_PIECE_BYTES)
        size = native.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, special)
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = native.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, special)
        return ctypes.string_at(buffer, size)


def _load(path: Path, gpus: tuple[str, ...], layers: int | None) -> int:
    params = native.llama_model_default_params()
    params.load_mode = native.LLAMA_LOAD_MODE_MMAP
    params.n_gpu_layers = (-1 if layers is None else layers) if gpus else 0
    chosen = selection(gpus)  # said in any case: llama.cpp would take every device that it finds
    params.devices = ctypes.addressof(chosen)
    with complaints() as heard:
        handle = native.llama_model_load_from_file(os.fsencode(path), params)
    if handle is None:
        raise refusal(f"llama.cpp cannot load {path.name}", heard)
    _check_kind(handle, path)
    return int(handle)


def _check_kind(handle: int, path: Path) -> None:
    kinds: Sequence[tuple[bool, str]] = (
        (native.llama_model_has_encoder(handle), "it has an encoder"),
        (not native.llama_model_has_decoder(handle), "it has no decoder"),
        (native.llama_model_is_diffusion(handle), "it is a diffusion model"),
    )
    why = next((reason for found, reason in kinds if found), None)
    if why is not None:
        native.llama_model_free(handle)
        raise ModelUnsupported(f"{path.name} does not generate text token by token", why=why)
