from fmlayers.tuning.study import Study


def write_report(study: Study) -> None:
    (study.path / "summary.txt").write_text(study.trials().to_string())
