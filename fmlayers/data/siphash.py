"""SipHash-2-4 of texts, the same on every machine and in TensorFlow."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

KEY = (0, 0)  # part of the format of saved encoders

Words = npt.NDArray[np.uint64]


def siphash(texts: Sequence[str], key: tuple[int, int] = KEY) -> Words:
    """Returns the SipHash-2-4 of the UTF-8 of each text, unsigned 64-bit integers.

    `tf.strings.to_hash_bucket_strong` with the key `KEY` computes the same hash, modulo
    the number of buckets. Texts of the same length in words are hashed together.

    Args:
        texts: The texts. Lone surrogates are hashed as UTF-8 would encode them.
        key: Two unsigned 64-bit integers. Defaults to `KEY`.

    References:
        Aumasson, J.-P. and Bernstein, D. (2012). SipHash: a fast short-input PRF,
        section 2.
    """
    data = [text.encode("utf-8", "surrogatepass") for text in texts]
    lengths = np.fromiter(map(len, data), np.int64, count=len(data))
    hashes = np.empty(len(data), np.uint64)
    for words in np.unique(lengths // 8 + 1).tolist():
        rows = np.flatnonzero(lengths // 8 + 1 == words)
        # Zeros, and the length as the last byte.
        padded = b"".join(data[i].ljust(8 * words, b"\0") for i in rows)
        blocks = np.frombuffer(padded, "<u8").reshape(-1, words).astype(np.uint64)
        blocks[:, -1] |= (lengths[rows] % 256).astype(np.uint64) << np.uint64(56)
        hashes[rows] = _hash(blocks, key)
    return hashes


def _hash(blocks: Words, key: tuple[int, int]) -> Words:
    constants = b"uespemos", b"modnarod", b"arenegyl", b"setybdet"
    keys = np.array([*key, *key], np.uint64)
    state = np.frombuffer(b"".join(constants), "<u8") ^ keys
    v = [np.full(len(blocks), word, np.uint64) for word in state]
    for block in blocks.T:
        v[3] ^= block
        _rounds(v, 2)
        v[0] ^= block
    v[2] ^= np.uint64(0xFF)
    _rounds(v, 4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def _rounds(v: list[Words], count: int) -> None:
    for _ in range(count):
        for a, b, c, d, left, right in ((0, 1, 2, 3, 13, 16), (2, 1, 0, 3, 17, 21)):
            v[a] += v[b]
            v[c] += v[d]
            v[b] = _rotated(v[b], left) ^ v[a]
            v[d] = _rotated(v[d], right) ^ v[c]
            v[a] = _rotated(v[a], 32)


def _rotated(word: Words, bits: int) -> Words:
    return (word << np.uint64(bits)) | (word >> np.uint64(64 - bits))
