"""Recipes run by real processes; a stand-in for one stage makes them quick and lets them fail or take their time."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ovd.errors import UserError
from pipelines.running.console import duration, last_lines, without_bar
from pipelines.running.execution import run_recipe
from pipelines.running.journal import Journal, covered_seconds, locked
from pipelines.running.recipe_file import load_recipe, usable_cores

# Takes the place of pipelines/zero_shot.py in the stages' processes.
STAND_IN = '''
import os, sys, time
from pathlib import Path

def add_arguments(parser):
    parser.add_argument("--out", required=True)
    parser.add_argument("--text", default="made")
    parser.add_argument("--needs", default=[], nargs="+")
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--memory-mb", type=int, default=0)
    parser.add_argument("--child", action="store_true")
    parser.add_argument("--overwrite", action="store_true")

def run(args):
    out = Path(args.out)
    with open(out.parent / "started.txt", "a") as file:
        file.write(f"{out.name} {os.environ['OMP_NUM_THREADS']}\\n")
    if out.exists() and out.read_text().startswith(args.text) and not args.overwrite:
        return 0
    ballast = b"x" * (args.memory_mb << 20)
    if args.child and os.fork() == 0:
        (out.parent / "child.txt").write_text(str(os.getpid()))
        time.sleep(600)
    print("working 10%\\rworking 20%", flush=True)
    time.sleep(args.seconds)
    if (out.parent / "fail").exists():
        print("error: no luck", file=sys.stderr)
        return 2
    for name in args.needs:
        assert Path(name).exists(), name
    if args.text != "nothing":
        out.write_text(args.text + (f" {time.time()}" if args.overwrite else ""))
'''

CUSTOMIZE = '''
import importlib.util, sys
spec = importlib.util.spec_from_file_location("pipelines.zero_shot", {path!r})
sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
'''


@pytest.fixture
def world(tmp_path, monkeypatch, root):
    """A folder to work in, where the stage ``zero-shot`` is the stand-in."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    (tmp_path / "sitecustomize.py").write_text(CUSTOMIZE.format(path=str(tmp_path / "stand_in.py")))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(root)]))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    return tmp_path


def write_recipe(folder: Path, stages: list[dict], name: str = "r", **values) -> Path:
    path = folder / "recipe.py"
    lines = [f"{key} = {value!r}" for key, value in {"name": name, "stages": stages, **values}.items()]
    path.write_text("\n".join(lines))
    return path


def stage(name: str, extra: str = "", **keys) -> dict:
    return dict(name=name, command=f"zero-shot --out out/{name} {extra}", outputs=[f"out/{name}"], **keys)


def started(folder: Path) -> list[str]:
    file = folder / "out" / "started.txt"
    names = [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []
    file.unlink(missing_ok=True)
    return names


def run(folder: Path, *args: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "pipelines.cli", "run", "recipe.py", *args], cwd=folder,
                          capture_output=True, text=True, timeout=120)


def test_stages_run_in_order_and_the_second_run_starts_nothing(world, capsys):
    path = write_recipe(world, [stage("a"), stage("b", "--needs out/a"), stage("c", "--needs out/a out/b")])
    assert run_recipe(load_recipe(path))
    assert started(world) == ["a", "b", "c"]
    first = Journal.read(Path("work_dirs/r"))
    assert [record.status for record in first.stages.values()] == ["done"] * 3
    assert all(record.seconds > 0 and record.peak_memory_mb > 5 for record in first.stages.values())
    assert "[2/3] b  done" in capsys.readouterr().out

    assert run_recipe(load_recipe(path))
    assert started(world) == []
    again = Journal.read(Path("work_dirs/r"))
    assert again.stages == first.stages and again.total_seconds == first.total_seconds
    assert capsys.readouterr().out.count("current") == 3


def test_a_changed_command_starts_its_stage_and_those_after_it(world):
    stages = [stage("a"), stage("b", after=[]), stage("c", after=["a"])]
    assert run_recipe(load_recipe(write_recipe(world, stages)))
    started(world)
    stages[0] = stage("a", "--text other")
    assert run_recipe(load_recipe(write_recipe(world, stages)))
    assert started(world) == ["a", "c"]


def test_a_stage_that_finds_nothing_to_do_keeps_its_time(world):
    stages = [stage("a", "--seconds 0.5")]
    assert run_recipe(load_recipe(write_recipe(world, stages)))
    seconds = Journal.read(Path("work_dirs/r")).stages["a"].seconds
    stages[0]["command"] += " --seconds 0.4"  # another command, so it is started; its output is there, so it returns
    assert run_recipe(load_recipe(write_recipe(world, stages)))
    assert started(world) == ["a", "a"]
    record = Journal.read(Path("work_dirs/r")).stages["a"]
    assert record.seconds == seconds and not record.reused

    assert run_recipe(load_recipe(write_recipe(world, stages), "elsewhere"))
    assert Journal.read(Path("elsewhere")).stages["a"].reused


def test_an_output_that_was_removed_or_changed_is_made_again(world):
    path = write_recipe(world, [stage("a"), stage("b", after=[])])
    assert run_recipe(load_recipe(path))
    started(world)
    (world / "out" / "a").unlink()
    (world / "out" / "b").write_text("edited by hand")
    assert run_recipe(load_recipe(path))
    assert started(world) == ["a", "b"]
    assert (world / "out" / "b").read_text() == "made"


def test_a_changed_config_is_looked_at_again(world):
    (world / "configs" / "sub").mkdir(parents=True)
    config = world / "configs" / "sub" / "c.py"
    base = world / "configs" / "base.py"
    config.write_text("x = 1")
    base.write_text("y = 1")
    path = write_recipe(world, [stage("a", f"--text {config}")])
    assert run_recipe(load_recipe(path))
    started(world)
    assert run_recipe(load_recipe(path))
    assert started(world) == []
    base.write_text("y = 2")
    assert run_recipe(load_recipe(path))
    assert started(world) == ["a"]


def test_overwrite_is_passed_on_and_does_everything_again(world):
    path = write_recipe(world, [stage("a")])
    assert run_recipe(load_recipe(path))
    assert run_recipe(load_recipe(path), overwrite=True)
    assert started(world) == ["a", "a"]
    assert (world / "out" / "a").read_text() != "made"
    assert run_recipe(load_recipe(path))
    assert started(world) == []


def test_stages_side_by_side_share_the_cores(world):
    stages = [stage("a", "--seconds 1.5", after=[]), stage("b", "--seconds 1.5", after=[]),
              stage("c", after=["a", "b"]), stage("d", threads=7)]
    recipe = load_recipe(write_recipe(world, stages, jobs=2))
    cores = usable_cores()
    assert [s.threads for s in recipe.stages] == [max(1, cores // 2)] * 2 + [cores, 7]
    assert run_recipe(recipe)
    journal = Journal.read(Path("work_dirs/r"))
    (begin_a, end_a), (begin_b, end_b) = journal.stages["a"].intervals[0], journal.stages["b"].intervals[0]
    assert max(begin_a, begin_b) < min(end_a, end_b)
    assert journal.total_seconds < sum(record.seconds for record in journal.stages.values())
    threads = dict(line.split() for line in (world / "out" / "started.txt").read_text().splitlines())
    assert threads == {s.name: str(s.threads) for s in recipe.stages}


def test_memory_is_that_of_the_stage(world):
    write_recipe(world, [stage("a", "--memory-mb 300"), stage("b")])
    assert run(world).returncode == 0  # in a process of its own: a child of this one would inherit its peak
    stages = Journal.read(Path("work_dirs/r")).stages
    assert 300 < stages["a"].peak_memory_mb < 450
    assert stages["b"].peak_memory_mb < 150


def test_a_failure_shows_the_log_and_the_next_run_goes_on_there(world):
    write_recipe(world, [stage("a"), stage("b"), stage("c")])
    (world / "out" / "fail").touch()
    assert run(world).returncode == 1  # a fails
    (world / "out" / "fail").unlink()
    stages = [stage("a"), stage("b", "--needs nowhere"), stage("c")]
    write_recipe(world, stages)
    done = run(world)
    assert done.returncode == 1
    assert started(world) == ["a", "a", "b"]
    assert "stage b failed (exit status 1)" in done.stdout and "02-b.log" in done.stdout
    assert "| AssertionError: nowhere" in done.stdout
    (world / "nowhere").touch()
    done = run(world)
    assert done.returncode == 0, done.stdout
    assert started(world) == ["b", "c"]
    assert len(Journal.read(world / "work_dirs" / "r").stages["b"].intervals) == 2  # the time of both tries counts


def test_a_stage_that_leaves_its_output_out_has_failed(world, capsys):
    assert not run_recipe(load_recipe(write_recipe(world, [stage("a", "--text nothing")])))
    assert "ended without writing out/a" in capsys.readouterr().out


def test_a_failure_stops_the_stages_beside_it(world):
    stages = [stage("slow", "--seconds 60", after=[]), stage("bad", "--needs nowhere", after=[])]
    assert not run_recipe(load_recipe(write_recipe(world, stages, jobs=2)))
    journal = Journal.read(Path("work_dirs/r"))
    assert journal.stages["slow"].status == "interrupted" and journal.stages["slow"].seconds < 50


def wait_for(condition, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_process_and_goes_on_where_it_was(world, number):
    write_recipe(world, [stage("a"), stage("b", "--seconds 60 --child")])
    command = [sys.executable, "-m", "pipelines.cli", "run", "recipe.py"]
    runner = subprocess.Popen(command, cwd=world, stdout=subprocess.PIPE, text=True, start_new_session=True,
                              preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # ignored under nohup
    child = world / "out" / "child.txt"
    wait_for(lambda: child.exists() and child.read_text())
    stages = [int(pid) for pid in Path(f"/proc/{runner.pid}/task/{runner.pid}/children").read_text().split()]
    runner.send_signal(number)
    runner.communicate(timeout=30)
    wait_for(lambda: not any(map(is_alive, stages)))
    if number != signal.SIGKILL:
        assert runner.returncode == 130
        wait_for(lambda: not is_alive(int(child.read_text())))
        assert Journal.read(world / "work_dirs" / "r").stages["b"].status == "interrupted"
    elif is_alive(int(child.read_text())):  # a worker that does not watch its parent: nobody is left to ask it
        os.kill(int(child.read_text()), signal.SIGKILL)

    started(world)
    write_recipe(world, [stage("a"), stage("b")])
    assert run(world).returncode == 0
    assert started(world) == ["b"]


def test_one_run_at_a_time_in_a_work_directory(world):
    write_recipe(world, [stage("a")])
    with locked(world / "work_dirs" / "r"):
        done = run(world)
    assert done.returncode == 2 and "a recipe is running there already" in done.stderr
    assert run(world).returncode == 0


def test_wrong_arguments_are_found_before_anything_runs(world):
    done_before = write_recipe(world, [stage("a"), dict(name="b", command="zero-shot --ou out/b --frequency 3")])
    with pytest.raises(UserError, match=r"recipe\.py: stage b: ovd zero-shot: .*--frequency"):
        run_recipe(load_recipe(done_before))
    assert started(world) == []


@pytest.mark.parametrize(("values", "message"), [
    ({"stages": []}, "stages is empty"),
    ({"stages": 3}, "stages is 3, not of type list"),
    ({"stages": [{"command": "shapes"}]}, "stage 1: must be a dict with a name"),
    ({"stages": [stage("a"), stage("a")]}, "stage a: there are two stages of this name"),
    ({"stages": [dict(name="a", command="shape --x")]}, "no subcommand 'shape'; did you mean shapes"),
    ({"stages": [dict(name="a", command="")]}, "stage a: has no command"),
    ({"stages": [stage("a", afetr=[])]}, "unknown key 'afetr'; did you mean after"),
    ({"stages": [stage("first"), stage("b", after=["frist"])]}, "no earlier stage 'frist'; did you mean first"),
    ({"stages": [stage("a", after=["b"]), stage("b")]}, "stage a: after: no earlier stage 'b'"),
    ({"stages": [stage("a", "{wrok_dir}")]}, r"unknown placeholder \{wrok_dir\}; did you mean work_dir"),
    ({"stages": [stage("a")], "name": "a/b"}, "name 'a/b'"),
    ({"stages": [stage("a")], "jobs": 0}, "jobs is 0"),
    ({"stages": [stage("a")], "seed": "x"}, "seed is 'x', not of type int"),
    ({"stages": [stage("a", threads=0)]}, "threads is 0"),
])
def test_a_wrong_recipe_is_refused_with_the_reason(tmp_path, values, message):
    with pytest.raises(UserError, match=message):
        load_recipe(write_recipe(tmp_path, **values))


def test_a_recipe_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="no such recipe"):
        load_recipe(tmp_path / "recipe.py")
    (tmp_path / "recipe.py").write_text("name = 'x'\nstages = [\n")
    with pytest.raises(UserError, match=r"recipe\.py: line 2"):
        load_recipe(tmp_path / "recipe.py")
    (tmp_path / "recipe.py").write_text("name = 1 / 0")
    with pytest.raises(UserError, match="ZeroDivisionError"):
        load_recipe(tmp_path / "recipe.py")


def test_placeholders_and_the_default_work_directory(tmp_path):
    stages = [dict(name="a", command="shapes --seed {seed} --workers {threads}", outputs=["{work_dir}/x"], threads=3),
              dict(name="b", command=["train", "a b", "{work_dir}/y"])]
    path = write_recipe(tmp_path, stages, seed=4, report={"methods": [{"metrics": "{work_dir}/m.json"}]})
    recipe = load_recipe(path)
    assert recipe.work_dir == Path("work_dirs/r") and load_recipe(path, seed=4).work_dir == recipe.work_dir
    assert recipe.stages[0].command == ("shapes", "--seed", "4", "--workers", "3")
    assert recipe.stages[0].outputs == ("work_dirs/r/x",)
    assert recipe.stages[1].command == ("train", "a b", "work_dirs/r/y") and recipe.stages[1].after == ("a",)
    assert recipe.report == {"methods": [{"metrics": "work_dirs/r/m.json"}]}
    other = load_recipe(path, seed=5)
    assert other.work_dir == Path("work_dirs/r-seed5") and other.stages[0].command[2] == "5"
    assert load_recipe(path, "w d", 5).stages[1].command[2] == "w d/y"


def test_every_recipe_of_the_project_is_valid(root, monkeypatch):
    monkeypatch.chdir(root)
    from pipelines.running.execution import _parse_all

    recipes = sorted((root / "configs" / "recipes").glob("*.py"))
    assert recipes
    for path in recipes:
        recipe = load_recipe(path)
        problems = [problem for problem, _ in _parse_all([s.command for s in recipe.stages])]
        assert problems == [""] * len(recipe.stages), path
        for word in (word for s in recipe.stages for word in s.command if word.endswith(".py")):
            assert (root / word).is_file(), f"{path.name} names {word}"


def test_covered_seconds_is_the_length_of_the_union():
    assert covered_seconds([]) == 0
    assert covered_seconds([(0, 2), (5, 6)]) == 3
    assert covered_seconds([(5, 9), (0, 2), (1, 6), (8, 9)]) == 9


def test_last_lines_show_what_a_terminal_would(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"old\nfirst\n\n 10%|#\r 20%|##\r\x1b[31m 30%|###\x1b[0m")
    assert last_lines(log) == [" 30%|###"]
    assert last_lines(log, count=2) == ["first", " 30%|###"]
    assert last_lines(log, start=4, count=5) == ["first", " 30%|###"]
    assert last_lines(tmp_path / "none") == []


def test_progress_is_shown_without_its_bar():
    assert without_bar("crops:  45%|\u2588\u2588\u258e  | 9/20 [00:03<00:04]") == "crops: 45% 9/20 [00:03<00:04]"
    assert without_bar("a | table | row") == "a | table | row"


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (125, "2 min 05 s"),
                                               (3720, "1 h 02 min")])
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_report_runs_at_the_end(world):
    """The figures of a run reach report.json; what the page shows is tested in tests/evaluation/test_report.py."""
    metrics = {f"{group}/{name}": 50.0 for group in ("base", "novel") for name in
               ("ap50", "mask_ap50", "top1_ap50", "accuracy")}
    (world / "m.json").write_text(json.dumps(metrics))
    (world / "zero.json").write_text(json.dumps({"base": 96.0, "novel": 97.5}))
    write_recipe(world, [stage("a")], seed=3, report=dict(
        methods=[dict(name="vild", title="ViLD", metrics="m.json")], clip_zero_shot="zero.json"))
    done = run(world)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((world / "work_dirs" / "r" / "report.json").read_text())
    assert report["metrics"]["vild"]["base"] == {"ap50": 50.0, "mask_ap50": 50.0, "top1_ap50": 50.0, "accuracy": 50.0}
    assert report["clip_zero_shot"] == {"base": 96.0, "novel": 97.5}
    assert report["stages"][0]["name"] == "a" and report["stages"][0]["seconds"] > 0
    assert report["total_seconds"] > 0 and report["seed"] == 3
    assert "work_dirs/r/report.html" in done.stdout
