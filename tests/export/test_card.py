"""The Markdown of a model card shows any name as it is, and never as HTML."""

import html
import json
import re

import markdown_it
import pandas as pd
import pytest

import fmlayers
from fmlayers.data import Encoder
from fmlayers.export import export

pytestmark = pytest.mark.usefixtures("on_tensorflow")

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "&lt;b&gt; & co",
    "a|b || c",
    "back\\slash \\| \\",
    "`tick` ``two``",
    "[click](javascript:alert(1))",
    "![img](http://x/y.png)",
    "*em* **strong** _em_ __strong__ ~~no~~ snake_case_name",
    "# heading",
    "- item",
    "$x_1$",
    "```json",
    "new\nline\r\n\n<hr>\u2028end",
]


@pytest.fixture(scope="module")
def card(shaken, tmp_path_factory):
    """Return the Markdown and the JSON of the card of a model with hostile names."""
    kinds = dict.fromkeys(HOSTILE, "categorical")
    kinds |= {HOSTILE[0]: "multi_categorical", HOSTILE[1]: "numeric"}
    values = [HOSTILE[0], *HOSTILE]  # the most frequent value is in the examples
    table = pd.DataFrame(dict.fromkeys(HOSTILE, values))
    table[HOSTILE[1]] = range(len(values))
    encoder = Encoder(kinds, separator="<").fit(table)
    model = fmlayers.models.FactorizationMachine(encoder.features, 2, encoder=encoder)
    path = tmp_path_factory.mktemp("card") / "model"
    details = {name: {name: name} for name in HOSTILE}
    export(model, path, details={**details, "<b>": "<b>"})
    content = json.loads((path / "card.json").read_text("utf-8"))
    return (path / "README.md").read_text("utf-8"), content


@pytest.fixture(scope="module")
def page(card):
    """Return the card as HTML, from a parser that lets HTML through, as many do."""
    parser = markdown_it.MarkdownIt("commonmark", {"html": True})
    return parser.enable(["table", "strikethrough"]).render(card[0])


def cells(page):
    texts = re.findall(r"<td[^>]*>(.*?)</td>", page, re.DOTALL)
    return [html.unescape(re.sub("</?code>", "", text)) for text in texts]


def test_no_name_is_markup(card, page):
    tags = {*re.findall(r"</?(\w+)", page)}
    assert tags == {
        *("h1", "h2", "p", "table", "thead", "tbody", "tr", "th", "td", "pre", "code")
    }
    assert "<script" not in card[0]
    assert "<img" not in card[0]
    assert len(re.findall("<pre>", page)) == 2 * len(card[1]["signatures"])


def test_every_name_is_shown_as_it_is(page):
    shown = cells(page)
    for name in HOSTILE:
        text = " ".join(name.splitlines())
        # As a feature, as a column of raw values, and twice in the details.
        assert shown.count(text.strip()) >= 4, text
    headings = [html.unescape(text) for text in re.findall("<h2>(.*?)</h2>", page)]
    for name in HOSTILE:
        assert " ".join(name.capitalize().splitlines()).strip() in headings


def test_the_examples_of_a_card_stay_json(card, page):
    blocks = re.findall(r'<code class="language-json">(.*?)</code>', page, re.DOTALL)
    parts = [json.loads(html.unescape(block)) for block in blocks]
    expected = [
        signature[part]
        for signature in card[1]["signatures"].values()
        for part in ("request", "answer")
    ]
    assert parts == expected


def test_the_card_describes_the_columns_of_raw_values(machine, encoder, tmp_path):
    export(machine, tmp_path / "m.tflite", "litert")
    card = json.loads((tmp_path / "m.tflite.json").read_text("utf-8"))
    mean, deviation = encoder.scale("age")
    sizes = {
        name: {"kind": kind, "values": len(encoder.vocabulary(name))}
        for name, kind in encoder.columns.items()
        if name != "age"
    }
    facts = {**sizes, "age": {"kind": "numeric", "mean": mean, "deviation": deviation}}
    assert card["encoder"] == {
        "separator": "|",
        "columns": [{"name": name, **facts[name]} for name in encoder.columns],
    }


def test_a_model_without_an_encoder_has_no_columns(every_kind, tmp_path):
    model = fmlayers.models.MatrixFactorization(*every_kind[:2], 2)
    export(model, tmp_path / "m.tflite", "litert")
    card = json.loads((tmp_path / "m.tflite.json").read_text("utf-8"))
    assert "encoder" not in card
