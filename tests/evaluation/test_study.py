"""A study's rows, differences and page, and the stage that writes them."""

import json
import statistics

import msgspec
import pytest
from PIL import Image

from ovd.errors import UserError
from ovd.evaluation.study import Question, StudyMethod, StudyPlan, answers, check_plan, gather, rows
from ovd.evaluation.study_page import render_markdown
from pipelines.cli import run_stage
from pipelines.study import write_study

SEEDS = (0, 1, 2)
VALUES = {"text": {"base": [80.0, 82.0, 81.0], "novel": [30.0, 35.0, 28.0]},
          "both": {"base": [79.0, 83.0, 80.5], "novel": [50.0, 51.0, 52.0]}}
RECIPE = '''
name = "small"
stages = [dict(name="scenes", command="shapes")]
study = dict(
    title="A small study", introduction="Two methods.", seeds=(0, 1, 2), upper_bound="both",
    metrics="{work_dir}/seed{seed}/{method}/metrics.json",
    methods=[dict(name="text", title="Text only", about="names"), dict(name="both", title="Both")],
    questions=[dict(text="Does it help?", of="both", over="text", figures=["novel/ap50", "base/mask_ap50"])])
'''


def metrics_of(method: str, seed: int) -> dict:
    return {f"{group}/ap50": VALUES[method][group][seed] for group in ("base", "novel")} | {
        "all/ap50": None, "novel/accuracy": 10.0 + seed, "base/unknown": 3.0}


@pytest.fixture
def plan() -> StudyPlan:
    return StudyPlan("t", SEEDS, "{method}{seed}", [StudyMethod("text", "Text only"), StudyMethod("both", "Both")],
                     upper_bound="both", questions=[Question("Better?", "both", "text", ["novel/ap50", "all/ap50"])])


@pytest.fixture
def table(plan):
    return gather(plan, {(name, seed): metrics_of(name, seed) for name in VALUES for seed in SEEDS})


def test_rows_are_means_and_sample_deviations(plan, table):
    text, both = rows(plan, table)
    assert (text["method"], text["name"], text["seeds"]) == ("Text only", "text", [0, 1, 2])
    assert text["novel_ap50"] == 31.0 and both["base_ap50"] == round(statistics.mean(VALUES["both"]["base"]), 2)
    assert text["novel_std"] == round(statistics.stdev(VALUES["text"]["novel"]), 2)
    assert text["all_ap50"] is None and "all/ap50" not in text["figures"]
    assert text["figures"]["novel/accuracy"]["values"] == [10.0, 11.0, 12.0]
    assert "base/unknown" not in text["figures"]


def test_differences_are_taken_seed_by_seed(plan, table):
    [answer] = answers(plan, table)
    assert answer["differences"]["novel/ap50"]["values"] == [20.0, 16.0, 24.0]
    assert "all/ap50" not in answer["differences"]


def test_page_says_how_many_seeds_agree_and_what_was_not_measured(plan, table):
    page = render_markdown(plan, table, "chart.png", [("processor", "a slow one")])
    assert "+20.0 (+20.0, +16.0, +24.0); higher in 3 of 3 seeds" in page
    assert "all, AP50: not measured" in page
    assert "| Text only | 31.0 | 61 % |" in page
    assert "![AP50 of every method](chart.png)" in page


@pytest.mark.parametrize(("change", "said"), [
    ({"methods": [StudyMethod("a", "A"), StudyMethod("a", "B")]}, "different names"),
    ({"seeds": ()}, "seeds"), ({"metrics": "{method}"}, "{seed}"), ({"upper_bound": "bot"}, "mean both")])
def test_inconsistent_plans_are_refused(plan, change, said):
    with pytest.raises(UserError, match=said):
        check_plan(msgspec.structs.replace(plan, **change))


def write_runs(folder):
    for name in VALUES:
        for seed in SEEDS:
            path = folder / f"seed{seed}" / name / "metrics.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(metrics_of(name, seed)))


def test_stage_writes_json_page_and_chart_and_the_same_bytes_again(tmp_path, capsys):
    (tmp_path / "recipe.py").write_text(RECIPE)
    write_runs(tmp_path / "runs")
    words = [str(tmp_path / "recipe.py"), "--work-dir", str(tmp_path / "runs"), "--out", str(tmp_path / "out/small")]
    assert run_stage("study", words) == 0
    assert "Text only" in capsys.readouterr().out
    contents = json.loads((tmp_path / "out/small.json").read_text())
    assert [row["name"] for row in contents["rows"]] == ["text", "both"]
    assert {"base_ap50", "novel_ap50", "all_ap50", "base_std", "novel_std", "all_std"} <= set(contents["rows"][0])
    with Image.open(tmp_path / "out/small.png") as chart:
        assert min(chart.size) > 100
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert run_stage("study", words) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_missing_run_is_named(tmp_path):
    (tmp_path / "recipe.py").write_text(RECIPE)
    write_runs(tmp_path / "runs")
    (tmp_path / "runs/seed2/both/metrics.json").unlink()
    with pytest.raises(UserError, match=r"seed2/both/metrics.json: no such file"):
        write_study(tmp_path / "recipe.py", tmp_path / "runs", tmp_path / "small")
