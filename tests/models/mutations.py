"""Damages the header of a GGUF file in seeded ways: at random, and with malice."""

import random
import struct
from collections.abc import Callable

HOSTILE = (
    0,
    1,
    2,
    3,
    7,
    255,
    256,
    65535,
    2**20,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
HOSTILE_FLOATS = (0.0, -0.0, -1.0, 1e-45, 1e38, float("inf"), float("-inf"), float("nan"))
WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

Mutation = Callable[[bytearray, int, random.Random], None]


def mutate(original: bytes, header_size: int, seed: int) -> bytes:
    """``original`` with one to three kinds of damage in its first ``header_size`` bytes."""
    chance = random.Random(seed)
    data = bytearray(original)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        chance.choice(MUTATIONS)(data, min(header_size, len(data)), chance)
    return bytes(data)


def _flip_bits(data: bytearray, size: int, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 8)):
        data[chance.randrange(size)] ^= 1 << chance.randrange(8)


def _random_bytes(data: bytearray, size: int, chance: random.Random) -> None:
    start = chance.randrange(size)
    stop = min(size, start + chance.randint(1, 16))
    data[start:stop] = chance.randbytes(stop - start)


def _truncate(data: bytearray, size: int, chance: random.Random) -> None:
    del data[chance.choice((chance.randrange(25, size), chance.randrange(size, len(data) + 1))) :]
    data.extend(bytes(max(0, 64 - len(data))))


def _drop_bytes(data: bytearray, size: int, chance: random.Random) -> None:
    start = chance.randrange(size - 16)
    del data[start : start + chance.randint(1, 16)]


def _hostile_count(data: bytearray, size: int, chance: random.Random) -> None:
    """A monstrous number over any eight or four bytes, or over the counts at the front."""
    at = chance.choice((8, 16, chance.randrange(8, size - 8)))
    value = chance.choice(HOSTILE)
    width = chance.choice((4, 8))
    data[at : at + width] = (value & (2 ** (8 * width) - 1)).to_bytes(width, "little")


def _hostile_value(data: bytearray, size: int, chance: random.Random) -> None:
    """Another value, or another type, for one of the keys."""
    at = chance.choice(_keys(data, size) or [24])
    kind = int.from_bytes(data[at : at + 4], "little")
    if chance.random() < 0.15:
        data[at : at + 4] = chance.randrange(14).to_bytes(4, "little")
    elif kind == 6:
        data[at + 4 : at + 8] = struct.pack("<f", chance.choice(HOSTILE_FLOATS))
    elif kind in WIDTHS:
        width = WIDTHS[kind]
        value = chance.choice((chance.choice(HOSTILE), chance.randrange(600)))
        data[at + 4 : at + 4 + width] = (value & (2 ** (8 * width) - 1)).to_bytes(width, "little")
    elif kind == 9 and chance.random() < 0.5:
        data[at + 4 : at + 8] = chance.randrange(14).to_bytes(4, "little")
    else:
        data[at + 8 : at + 16] = chance.choice(HOSTILE).to_bytes(8, "little")


def _hostile_tensor(data: bytearray, size: int, chance: random.Random) -> None:
    """Another dimension, type or offset for one of the tensors."""
    names = [at for at in range(size) if data.startswith(b".weight", at)]
    if not names:
        return
    at = chance.choice(names) + 7 + chance.choice((0, 4, 12, 20, 24))
    value = chance.choice((chance.choice(HOSTILE), chance.randrange(300)))
    data[at : at + 4] = (value & 0xFFFFFFFF).to_bytes(4, "little")


def _rename(data: bytearray, size: int, chance: random.Random) -> None:
    """One key becomes another, or one letter of a text becomes another."""
    at = chance.choice(_keys(data, size) or [40])
    data[at - chance.randint(1, 12)] = chance.choice(b"abcdefghijklmnopqrstuvwxyz._0123456789")


def _keys(data: bytearray, size: int) -> list[int]:
    """Where the type of each key stands."""
    ends = []
    for prefix in (b"general.", b"llama.", b"gemma.", b"tokenizer."):
        at = data.find(prefix, 0, size)
        while at >= 8:
            ends.append(at + min(200, int.from_bytes(data[at - 8 : at], "little")))
            at = data.find(prefix, at + 1, size)
    return [end for end in ends if end < size - 20]


MUTATIONS: tuple[Mutation, ...] = (
    _flip_bits,
    _random_bytes,
    _truncate,
    _drop_bytes,
    _hostile_count,
    _hostile_value,
    _hostile_value,
    _hostile_value,
    _hostile_tensor,
    _rename,
)
