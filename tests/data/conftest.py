import zipfile

import pytest

FILES_100K = {
    "u.data": "2\t10\t3\t881250949\n"
    "1\t10\t4\t881250950\n"
    "1\t30\t5\t881250951\n"
    "3\t20\t1\t881250952\n"
    "2\t30\t2\t881250953\n",
    "u.user": "1|24|M|technician|85711\n2|53|F|other|T8H1N\n3|7|F|none|00501\n",
    "u.genre": "unknown|0\nAction|1\nComedy|2\n\n",
    "u.item": "10|Café Ostend (1994)|01-Jan-1994||http://x|0|0|1\n"
    "20|unknown||||1|0|0\n"
    "30|Twice (1930) Removed (1987) (V)|||u|0|1|1\n",
    "u1.base": "1\t30\t5\t881250951\n2\t10\t3\t881250949\n3\t20\t1\t881250952\n",
    "u1.test": "2\t30\t2\t881250953\n1\t10\t4\t881250950\n",
}
FILES_1M = {
    "ratings.dat": "1::10::5::978300760\n1::20::3::978302109\n2::10::4::978301968\n",
    "users.dat": "1::F::1::10::48067\n2::M::56::1::70072-1234\n",
    "movies.dat": "10::Málaga: Ça va (1995)::Animation|Children's\n"
    "20::No Genre (1971)::\n",
}
FILES_LATEST = {
    "ratings.csv": "userId,movieId,rating,timestamp\n"
    "1,10,4.0,964982703\n1,20,0.5,964981247\n7,30,3.5,964982224\n",
    "movies.csv": "movieId,title,genres\n"
    '10,"Harbour, The (1995)",Comedy|Drama\n'
    "20,海の灯台 (2001),(no genres listed)\n"
    '30,"The ""Quoted"" One",Sci-Fi\n',
}
FORMATS = {
    "ml-100k": (FILES_100K, "latin-1"),
    "ml-1m": (FILES_1M, "latin-1"),
    "ml-latest": (FILES_LATEST, "utf-8"),
}


@pytest.fixture
def make_movielens(tmp_path):
    """Write a tiny MovieLens of a format; `files` replaces or (None) omits some."""

    def make(name, folder=None, *, files=None):
        contents, encoding = FORMATS[name]
        folder = folder or tmp_path / name
        folder.mkdir(parents=True)
        for file, text in (contents | (files or {})).items():
            if text is not None:
                data = text if isinstance(text, bytes) else text.encode(encoding)
                (folder / file).write_bytes(data)
        return folder

    return make


@pytest.fixture
def zipped(tmp_path):
    """Pack a folder into a zip, as the zip's only folder or at its top."""

    def pack(folder, name="archive.zip", *, at_top=False):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.iterdir()):
                archive.write(
                    path, path.name if at_top else f"{folder.name}/{path.name}"
                )
        return tmp_path / name

    return pack
