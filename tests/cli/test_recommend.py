import io
import re
import shutil

import pandas as pd
import pytest
from run_records import record_digests

from fmlayers import cli
from fmlayers.cli import item_table
from fmlayers.data import write_csv
from fmlayers.runs import Run
from fmlayers.runs.recommender import Recommender

DAY = "the column 'day' describes a rating and is missing"


def recommend(run, *options):
    return cli.main(["recommend", str(run), *map(str, options)])


def tables_of(printed):
    """Return the printed tables, by their headings."""
    found = {}
    for block in printed.strip().split("\n\n"):
        heading, _, table = block.partition("\n")
        found[heading] = pd.read_csv(
            io.StringIO(table), sep=r" {2,}", engine="python", dtype=str
        )
    return found


@pytest.fixture
def recommender(film_run, data):
    return Recommender(Run(film_run), data)


def check(table, recommender, scores, positions):
    expected = recommender.table(scores[0], positions[0])
    assert table["item"].tolist() == expected["item"].tolist()
    assert table["title"].tolist() == expected["title"].tolist()
    assert table["rating"].tolist() == [f"{x:.2f}" for x in expected["rating"]]
    assert table["score"].tolist() == [f"{x:.2f}" for x in expected["score"]]


def test_a_user(film_run, recommender, capsys):
    assert recommend(film_run, "--user", 3, "--top", 4) == 0
    captured = capsys.readouterr()
    history = recommender.history("3")
    liked, listed = tables_of(captured.out).items()
    assert liked[0] == (
        f"Highest ratings of user 3, who has {len(history)} in the training rows"
    )
    assert liked[1]["title"].tolist() == history["title"].head(5).tolist()
    assert liked[1]["rating"].astype(float).tolist() == history["rating"][:5].tolist()
    assert listed[0] == "Recommendations for user 3"
    assert listed[1]["rank"].tolist() == ["1", "2", "3", "4"]
    check(listed[1], recommender, *recommender.top_n(["3"], 4))
    assert DAY in captured.err
    assert captured.err.count("\n") == 1


def test_what_is_known_of_films_is_printed(film_run, recommender, films, capsys):
    assert recommend(film_run, "--user", 3, "--top", 25) == 0
    printed = capsys.readouterr().out
    for row in films.items.itertuples():
        if row.genres and row.title in printed:
            pattern = rf"{re.escape(row.title)} +{', '.join(row.genres)} +{row.year} "
            assert re.search(pattern, printed)


def test_filters(film_run, recommender, films, capsys):
    genres = next(cell for cell in films.items["genres"] if len(cell) > 1)
    command = ["--user", 3, "--top", 25, "--include-seen", "--year", "1980-1999"]
    for genre in genres[:2]:
        command += ["--genre", genre.upper()]
    assert recommend(film_run, *command) == 0
    table = tables_of(capsys.readouterr().out)["Recommendations for user 3"]
    expected = [
        str(row.item)
        for row in films.items.itertuples()
        if set(genres[:2]) <= set(row.genres) and 1980 <= row.year <= 1999
    ]
    assert sorted(table["item"]) == sorted(expected)
    allowed = recommender.catalog.allowed(genres[:2], (1980, 1999))
    lists = recommender.top_n(["3"], 25, include_seen=True, allowed=allowed)
    check(table, recommender, *lists)


def test_the_moment_may_be_given(film_run, recommender, capsys):
    day = recommender.queries.encoder.vocabulary("day")[0]
    assert recommend(film_run, "--user", 3, "--features", f"day={day}") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lists = recommender.top_n(["3"], known={"day": day})
    check(tables_of(captured.out)["Recommendations for user 3"], recommender, *lists)


def test_a_new_user(film_run, recommender, films, capsys):
    titles = films.items["title"]
    command = ["--liked", titles[3].lower(), "--liked", titles[7][:-7]]
    command += ["--features", "age=25", "sex=F", "--top", 5]
    assert recommend(film_run, *command) == 0
    found = tables_of(capsys.readouterr().out)
    assert found["Liked items"]["title"].tolist() == [titles[3], titles[7]]
    liked = [recommender.catalog.find(str(films.items["item"][i])) for i in (3, 7)]
    lists = recommender.new_user(liked, 5, known={"age": 25, "sex": "F"})
    check(
        found["Recommendations for a new user with age 25, sex F"], recommender, *lists
    )
    assert recommend(film_run, "--features", "age=25") == 0
    (heading,) = (found := tables_of(capsys.readouterr().out))
    assert heading == "Recommendations for a new user with age 25"
    lists = recommender.new_user(known={"age": 25})
    check(found[heading], recommender, *lists)


def test_a_user_of_the_test_rows_alone(film_run, recommender, capsys, tmp_path):
    """Or of the table of users: nothing in the training rows, not unknown."""
    run = tmp_path / "run"
    shutil.copytree(film_run, run)
    users = pd.read_csv(run / "users.csv")
    last = users.iloc[-1:].assign(user=31)
    write_csv(pd.concat([users, last]), run / "users.csv")
    record_digests(run)
    assert recommend(run, "--user", 31) == 0
    captured = capsys.readouterr()
    assert "user 31 has no training rows" in captured.err
    assert list(tables_of(captured.out)) == ["Recommendations for user 31"]


def test_all_users(film_run, recommender, films, capsys, tmp_path):
    path = tmp_path / "submission.csv"
    assert recommend(film_run, "--users", "all", "--csv", path, "--top", 3) == 0
    captured = capsys.readouterr()
    assert captured.out == f"wrote the recommendations for 30 users to {path}\n"
    table = pd.read_csv(path, dtype=str)
    assert table.columns.tolist() == ["user_id", "item_ids"]
    assert table["user_id"].tolist() == list(recommender.users)
    _, positions = recommender.top_n(list(recommender.users), 3)
    keys = recommender.catalog.keys
    assert table["item_ids"].tolist() == [" ".join(keys[row]) for row in positions]
    command = ["--users", "all", "--csv", path, "--top", 3, "--layout", "long"]
    assert recommend(film_run, *command) == 0
    table = pd.read_csv(path, dtype={"item": str})
    assert table["item"].tolist() == list(keys[positions.ravel()])
    assert table["rank"].tolist() == [1, 2, 3] * 30


def test_users_of_a_file(film_run, recommender, capsys, tmp_path):
    rows, path = tmp_path / "rows.csv", tmp_path / "out.csv"
    rows.write_text("user,item\n7,1\n3,1\n7,2\n")
    allowed = recommender.catalog.allowed((), (1990, 1999))
    command = ["--users", rows, "--csv", path, "--year", "1990-1999"]
    assert recommend(film_run, *command, "--include-seen") == 0
    assert (
        capsys.readouterr().out == f"wrote the recommendations for 2 users to {path}\n"
    )
    lists = recommender.top_n(["7", "3"], include_seen=True, allowed=allowed)
    keys = recommender.catalog.keys
    expected = [" ".join(keys[row[row >= 0]]) for row in lists[1]]
    assert pd.read_csv(path, dtype=str)["item_ids"].tolist() == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            [],
            "Use `--user` or `--users` or, for a new user, `--liked` or `--features`",
        ),
        (["--users", "all"], "`--users` and `--csv` must be used together."),
        (["--user", "3", "--csv", "x.csv"], "`--users` and `--csv` must be used"),
        (["--user", "nobody"], "There is no user 'nobody' among the 30"),
        (["--liked", "no such film"], "There is no item 'no such film'"),
        (["--liked", "the"], "'the' matches"),
        (["--user", "3", "--genre", "Rock"], "There is no genre 'Rock'"),
        (["--user", "3", "--year", "1800"], "No item has all"),
        (["--features", "shoe=42"], "The model has no column 'shoe' of users."),
        (["--features", "sex=X"], "The training rows have no sex 'X'."),
        (["--user", "3", "--top", "0"], "`k` must be a positive integer."),
        (["--user", "3", "--data", "elsewhere"], "elsewhere"),
        (["--users", "none.csv", "--csv", "x.csv"], "none.csv: there is no such file"),
    ],
)
def test_refuses(options, message, film_run, data, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recommend(film_run, *options) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.splitlines()[-1].startswith("fmlayers: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        "--user 3 --users all",
        "--user 3 --liked 1",
        "--features age",
        "--features =25",
        "--user 3 --year new",
        "--user 3 --year 1999-1990",
        "--user 3 --top many",
    ],
)
def test_usage_errors(options, film_run, capsys):
    with pytest.raises(SystemExit) as info:
        recommend(film_run, *options.split())
    assert info.value.code == 2
    assert capsys.readouterr().err.startswith("usage: fmlayers recommend")


def test_a_year_may_be_one_or_a_span():
    from fmlayers.cli.recommend import _years

    assert _years("1995") == (1995.0, 1995.0)
    assert _years("1990-1999") == (1990.0, 1999.0)


def test_titles_are_no_markup(capsys):
    items = pd.DataFrame(
        {
            "rank": [1, 2],
            "title": ["[Rec] [red]", "x" * 300],
            "genres": [("War", "Drama"), ()],
            "year": pd.array([2007, None], "Int64"),
            "cosine": [0.123, -1.0],
        }
    )
    item_table.print_items("Like [bold]", items)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Like [bold]"
    assert re.fullmatch(r" +1  \[Rec\] \[red\] +War, Drama +2007 +0\.12 *", lines[2])
    assert re.fullmatch(r" +2  x{300} +- +- +-1\.00 *", lines[3])
