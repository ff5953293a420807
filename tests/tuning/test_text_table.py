import pytest

from fmlayers.tuning.text_table import text_table


@pytest.mark.parametrize(
    ("align", "expected"),
    [
        ("left", "trial  rate\n0\n11     0.5\n"),
        ("right", "trial  rate\n    0\n   11   0.5\n"),
    ],
)
def test_columns_are_aligned(align, expected):
    rows = [("trial", "rate"), ("0", ""), ("11", "0.5")]
    assert text_table(rows, align=align) == expected
