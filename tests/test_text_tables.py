import pytest

from fmlayers._text_tables import aligned

ROWS = [("", "RMSE", "MAE"), ("model", "0.9", "0.71"), ("mean", "1.125", "")]


@pytest.mark.parametrize(
    ("left", "lines"),
    [
        (0, ["        RMSE   MAE", "model    0.9  0.71", " mean  1.125"]),
        (1, ["        RMSE   MAE", "model    0.9  0.71", "mean   1.125"]),
        (3, ["       RMSE   MAE", "model  0.9    0.71", "mean   1.125"]),
    ],
)
def test_columns_are_aligned(left, lines):
    assert aligned(ROWS, left) == "".join(f"{line}\n" for line in lines)


def test_no_rows():
    assert aligned([]) == ""


def test_rows_of_different_lengths_error():
    with pytest.raises(ValueError, match="zip"):
        aligned([("a", "b"), ("c",)])
