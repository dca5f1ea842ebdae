"""The runs that the page can show, by names that tell them apart."""

import json

from ovd.web.run_shelf import RunShelf


def test_runs_of_folders_with_one_name_are_all_there(tmp_path):
    for study in ("first", "second"):
        for run in ("vild", "vild_text"):
            folder = tmp_path / study / "seed0" / run
            folder.mkdir(parents=True)
            (folder / "metrics.json").write_text(json.dumps({"all/ap": 1.0}))
    first, second = tmp_path / "first/seed0", tmp_path / "second/seed0"
    shelf = RunShelf([first, second])
    assert shelf.names == ["seed0/vild", "seed0/vild_text", str(second / "vild"), str(second / "vild_text")]
    assert [shelf.get(name).run.work_dir for name in shelf.names] == [
        folder / run for folder in (first, second) for run in ("vild", "vild_text")]
    assert RunShelf([first, first, first / "vild"]).names == ["seed0/vild", "seed0/vild_text", str(first / "vild")]
