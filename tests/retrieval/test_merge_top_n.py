import keras
import numpy as np
import pytest

from fmlayers import Categorical
from fmlayers.models import FactorizationMachine
from fmlayers.retrieval import TopN, merge_top_n

FEATURES = [Categorical("user", 12), Categorical("item", 70), Categorical("genre", 4)]
USERS = {"user": np.arange(12)}


def catalog(rng, items=70):
    ids = rng.integers(0, 20, items)  # equal items have equal scores
    return {"item": ids, "genre": ids % 4}


@pytest.mark.parametrize("starts", [[0], [0, 16, 32], [0, 8, 64], [0, 32]])
@pytest.mark.parametrize("k", [5, 30])
def test_parts_answer_as_one_catalog(starts, k, rng):
    model = FactorizationMachine(FEATURES, dim=3)
    for weight in model.weights:  # scores are integers, without rounding
        weight.assign(rng.integers(-3, 4, weight.shape))
    items = catalog(rng)
    exclude = rng.integers(-1, 70, (12, 9))
    exclude[3] = -1
    names = ["item", "genre"]
    whole = TopN(model, names, 70, k, block_size=8).index(items)
    answers = []
    for start, end in zip(starts, [*starts[1:], 70], strict=True):
        part = {name: x[start:end] for name, x in items.items()}
        top = TopN(model, names, end - start, k, block_size=8).index(part)
        answers.append(
            [
                np.asarray(x)
                for x in map(keras.ops.convert_to_numpy, top(USERS, exclude - start))
            ]
        )
    expected = map(keras.ops.convert_to_numpy, whole(USERS, exclude))
    merged = merge_top_n(answers, starts)
    for one, other in zip(merged, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(merge_top_n(answers, starts, k=1), merged, strict=True):
        np.testing.assert_array_equal(one, other[:, :1])


def test_ranks_without_an_item():
    nothing = [[-np.inf, -np.inf]], [[-1, -1]]
    scores, positions = merge_top_n(
        [nothing, ([[2.0, -np.inf]], [[0, -1]])], [0, 2**40]
    )
    np.testing.assert_array_equal(scores, [[2.0, -np.inf]])
    np.testing.assert_array_equal(positions, [[2**40, -1]])


def test_errors():
    one, other = ([[1.0]], [[0]]), ([[1.0, 0.0]], [[0, 1]])
    with pytest.raises(ValueError, match="`answers` must have scores and positions of"):
        merge_top_n([one, other], [0, 1])
    with pytest.raises(ValueError, match="`starts` must be one integer per answer"):
        merge_top_n([one, one], [0])
    with pytest.raises(ValueError, match="`starts` must be .* in ascending order"):
        merge_top_n([one, one], [4, 4])
    with pytest.raises(ValueError, match="`k` must be an integer from 1 to 2"):
        merge_top_n([other], [0], k=3)
