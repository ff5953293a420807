from fmlayers._digests import digests_of
from fmlayers._json_files import read_json, write_json


def record_digests(run):
    """Record the digests of a run's files anew, after a test has changed them."""
    metrics = read_json(run / "metrics.json")
    files = digests_of(run, metrics["files"])
    write_json(run / "metrics.json", {**metrics, "files": files})
