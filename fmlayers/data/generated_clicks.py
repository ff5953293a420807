from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmlayers._checks import integer
from fmlayers._types import SYNTHETIC_CLICKS
from fmlayers.data.dataset import Dataset
from fmlayers.metrics.classification import auc, log_loss, pr_auc

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]

_OPTIONS = {"rows": "num_rows", "seed": "seed"}

_NUM_NUMERIC = 13
# From 10 to 100,000 values in equal ratios, rounded to two digits.
_SIZES = (
    *(10, 14, 21, 30, 44, 63, 91, 130, 190, 280, 400, 580, 830),
    *(1_200, 1_700, 2_500, 3_600, 5_200, 7_600, 11_000, 16_000, 23_000, 33_000),
    *(48_000, 69_000, 100_000),
)
_MISSING_SHARES = (
    0.45,
    0.0,
    0.2,
    0.2,
    0.03,
    0.2,
    0.04,
    0.0,
    0.04,
    0.45,
    0.04,
    0.7,
    0.2,
)
_MAX_NUMBER = 2**20
_MAX_SMALL = 150  # columns with more values have small effects and no interactions
_NUM_NUMERIC_PAIRED = 2
_RANK = 4

# Log-odds are multiples of 1 / _ONE, so that their sums are exact.
_ONE = 256
_MEAN = -_ONE * 3 // 2
_MAX_LOG_ODDS = 16 * _ONE
_MAIN = 110  # largest effect of a value
_MAIN_OF_LARGE = 16  # the same in columns of more than `_MAX_SMALL` values
_SLOPE = 24  # largest effect of doubling a number
_VECTOR = 7  # largest entry of a vector, in units of 1 / 16
_VECTOR_SLOPE = 2  # the same for doubling a number


@dataclass(frozen=True, eq=False, kw_only=True)
class SyntheticClicks(Dataset):
    """A `Dataset` of labels whose probabilities are known.

    Attributes:
        probability: Array of P(label = 1 | features), rounded to nine decimals.
    """

    probability: _Floats

    def best_metrics(self, rows: npt.ArrayLike | None = None) -> dict[str, float]:
        """Returns the expected metrics of the best predictions, the probabilities.

        Each row counts as a row of the label 1 with the weight p and a row of the label
        0 with the weight 1 - p. For example,

            AUC = sum_ij p_i (1 - p_j) ([p_i > p_j] + [p_i = p_j] / 2)
                  / (sum_i p_i  sum_j (1 - p_j))

        No prediction from the features has a higher expected AUC or PR-AUC, or a lower
        expected log loss. On a sample of n rows, the metrics of the true probabilities
        differ from these by about 1 / sqrt(n).

        Args:
            rows: Optional indices of rows, such as the test rows of a split. Defaults
                to all rows.

        Returns:
            A dict with `log_loss`, `auc` and `pr_auc`.
        """
        p = self.probability if rows is None else self.probability[np.asarray(rows)]
        twice = np.concatenate([p, p])
        labels = np.repeat([1.0, 0.0], len(p))
        weights = np.concatenate([p, 1.0 - p])
        return {
            "log_loss": log_loss(labels, twice, weights),
            "auc": auc(labels, twice, weights),
            "pr_auc": pr_auc(labels, twice, weights),
        }


def synthetic_clicks(*, num_rows: int = 30_000, seed: int = 0) -> SyntheticClicks:
    """Draws a table of clicks of the shape of the Criteo data, without users and items.

    The label is 1 with the probability

        p = sigmoid(w0 + sum_j w_j + sum_n a_n b_n + sum_{j<k} <v_j, v_k>)

    with an effect w_j of each value of the text column j and a slope a_n for each
    doubling b_n of the number n. All pairs interact among the eight text columns of at
    most 150 values and two of the numbers, whose v_n is b_n times a vector. The effects
    of the other columns are small, since a few rows per value do not show them. A
    factorization machine of the values and of the logarithms of the numbers can express
    the log-odds. About a quarter of the labels are 1.

    The columns are

    - `I1` to `I13`: counts with long tails, from 0 to about a million. Between none and
      70 % of their cells are missing.
    - `C1` to `C26`: text, from 10 to 100,000 values with Zipf frequencies: the k-th
      value is k times rarer than the first.

    The same arguments produce the same data on every machine. All random numbers are
    uniform, and all log-odds are sums of integers.

    Args:
        num_rows: Positive integer, the number of rows. Defaults to 30,000.
        seed: Random seed, of the effects and of the rows. Defaults to 0.

    Returns:
        A `SyntheticClicks`, with the label in the column `rating`.

    Raises:
        ValueError: If `num_rows` is not a positive integer.
    """
    num_rows = integer("num_rows", num_rows)
    truth, rng = np.random.default_rng((seed, 0)), np.random.default_rng((seed, 1))
    log_odds = np.full(num_rows, _MEAN, np.int64)
    columns: dict[str, Any] = {}
    doublings = []
    for position, share in enumerate(_MISSING_SHARES):
        numbers = _draw_numbers(rng, num_rows, scale=2**position)
        # The exponent of n + 1 counts how often 1 is doubled to reach it.
        doubled = np.frexp(numbers + 1.0)[1].astype(np.int64) - 1 - position
        is_missing = rng.random(num_rows) < share
        doubled[is_missing] = 0
        log_odds += _uniform(truth, (1,), _SLOPE) * doubled
        columns[f"I{position + 1}"] = np.where(is_missing, np.nan, numbers)
        doublings.append(doubled)
    codes = []
    for position, size in enumerate(_SIZES):
        weights = _frequencies(size)
        drawn = _draw_codes(rng, num_rows, weights)
        most = _MAIN if size <= _MAX_SMALL else _MAIN_OF_LARGE
        log_odds += _centered(_uniform(truth, (size,), most), weights)[drawn]
        # The names are in no order of frequency.
        names = np.array([f"v{code:05x}" for code in range(size)], dtype=object)
        order = np.argsort(truth.random(size), kind="stable")
        columns[f"C{position + 1}"] = names[order][drawn]
        codes.append(drawn)
    log_odds += _interactions(truth, codes, doublings)
    p = _probabilities(np.clip(log_odds, -_MAX_LOG_ODDS, _MAX_LOG_ODDS))
    labels = (rng.random(num_rows) < p).astype(np.float64)
    table = pd.DataFrame({"rating": labels, **columns})
    return SyntheticClicks(name=SYNTHETIC_CLICKS, ratings=table, probability=p)


def _draw_numbers(rng: np.random.Generator, rows: int, *, scale: int) -> _Floats:
    """Draws counts whose median is about `scale`, with a long tail."""
    share = rng.random(rows)
    return np.minimum(np.floor(scale * (share / (1.0 - share))), _MAX_NUMBER)


def _draw_codes(rng: np.random.Generator, rows: int, weights: _Ints) -> _Ints:
    ends = np.cumsum(weights)
    drawn = np.floor(rng.random(rows) * float(ends[-1])).astype(np.int64)
    codes: _Ints = np.searchsorted(ends, drawn, side="right")
    return codes


def _interactions(
    truth: np.random.Generator, codes: list[_Ints], doublings: list[_Ints]
) -> _Ints:
    """Returns the sum over all pairs of the interacting columns."""
    vectors = []
    for j in (j for j, size in enumerate(_SIZES) if size <= _MAX_SMALL):
        drawn = _uniform(truth, (_SIZES[j], _RANK), _VECTOR)
        vectors.append(_centered(drawn, _frequencies(_SIZES[j]))[codes[j]])
    order = np.argsort(truth.random(_NUM_NUMERIC), kind="stable")
    for n in order[:_NUM_NUMERIC_PAIRED]:
        slopes = _uniform(truth, (_RANK,), _VECTOR_SLOPE)
        vectors.append(doublings[n][:, np.newaxis] * slopes)
    total = np.sum(vectors, axis=0)
    squares = np.sum(np.square(vectors), axis=0)
    pairs: _Ints = (np.square(total) - squares).sum(axis=1) // 2
    return pairs


def _frequencies(size: int) -> _Ints:
    """Returns the frequencies of Zipf's law, as integers."""
    return 10**9 // np.arange(1, size + 1)


def _uniform(truth: np.random.Generator, shape: tuple[int, ...], most: int) -> _Ints:
    """Draws integers from -`most` to `most`."""
    drawn = np.floor(truth.random(shape) * (2 * most + 1)).astype(np.int64)
    return drawn - most


def _centered(effects: _Ints, weights: _Ints) -> _Ints:
    """Subtracts the weighted mean, so that the base rate depends little on the seed."""
    means = np.tensordot(weights, effects, axes=1) // weights.sum()
    centered: _Ints = effects - means
    return centered


def _probabilities(log_odds: _Ints) -> _Floats:
    steps = range(-_MAX_LOG_ODDS, _MAX_LOG_ODDS + 1)
    # The last bits of `exp` depend on the machine; nine decimals do not.
    table = np.array([round(1.0 / (1.0 + math.exp(-x / _ONE)), 9) for x in steps])
    return table[log_odds + _MAX_LOG_ODDS]


def clicks_of(source: str) -> SyntheticClicks:
    """Returns the table of a source: `synthetic-clicks` or `synthetic-clicks:rows=N`.

    Raises:
        ValueError: If the source has another option, or one that is not an integer.
    """
    arguments = {}
    _, _, options = source.partition(":")
    for option in filter(None, options.split(",")):
        name, _, value = option.partition("=")
        if name not in _OPTIONS or not value.isdecimal():
            raise ValueError(
                f"The options of the source {SYNTHETIC_CLICKS!r} must be rows=N and "
                f"seed=N, as in {SYNTHETIC_CLICKS}:rows=100000,seed=1. "
                f"Received: {option!r}."
            )
        arguments[_OPTIONS[name]] = int(value)
    return synthetic_clicks(**arguments)
