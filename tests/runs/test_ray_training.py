from fmlayers.runs.ray_training import _versions


def write_run(folder, text):
    folder.mkdir()
    (folder / "config.json").write_text(text)


def test_a_run_that_workers_have_begun_is_new_until_it_is_replaced(tmp_path):
    out, partial = tmp_path / "run", tmp_path / "run.partial"
    assert not _versions(out)
    write_run(out, "of another run")
    former = _versions(out)
    assert len(former) == 1
    write_run(partial, "of the workers")
    (begun,) = _versions(out) - former
    # The finished run takes the place of the other, which is removed later.
    out.rename(tmp_path / "replaced")
    partial.rename(out)
    (tmp_path / "replaced").rename(partial)
    assert _versions(out) - former == {begun}
