"""The runner: figures of all scripts in one file, failures named, no script forgotten; and every script runs."""

import json
import time
from pathlib import Path

import pytest

FIGURE = {"name": "a", "value": 1.5, "unit": "s", "peer": "b", "peer_value": 3, "ratio": 2.0, "machine": "m"}
GOOD = f"import sys\n\ndef main():\n    print('# note', sys.argv[1:])\n    print('''{json.dumps(FIGURE)}''')\nmain()\n"


@pytest.fixture(scope="module")
def run(script):
    return script("run")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "raises.py").write_text(GOOD + "raise SystemExit('the two ways differ')\n")
    (tmp_path / "odd.py").write_text(GOOD.replace("ratio", "speed"))
    (tmp_path / "silent.py").write_text("def main():\n    pass\nmain()\n")
    (tmp_path / "shared.py").write_text("def helper():\n    pass\n")
    return tmp_path


def table(run, *scripts):
    return [run.Benchmark(name, "offline", ("--rounds", "7"), quick=("--rounds", "1")) for name in scripts]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_figures_are_shown_and_kept(run, folder, tmp_path, capsys):
    scripts = table(run, "good", "raises", "odd", "silent")
    out = tmp_path / "out" / "figures.jsonl"
    assert run.main(["--only", "good", "--json", str(out)], folder, scripts) == 0
    assert lines(out) == [FIGURE]
    shown = capsys.readouterr().out
    assert "2.0 x" in shown and "1.5 s" in shown and "3 s" in shown and "a | b" in shown
    assert "# note ['--rounds', '7']" in shown
    assert run.main(["--only", "good", "--quick"], folder, scripts) == 0
    assert "# note ['--rounds', '1']" in capsys.readouterr().out


def test_scripts_that_fail_are_named_and_the_others_run(run, folder, tmp_path, capsys):
    scripts = table(run, "raises", "odd", "silent", "gone", "good")
    out = tmp_path / "figures.jsonl"
    assert run.main(["--json", str(out)], folder, scripts) == 1
    told = capsys.readouterr().err
    for said in ("FAILED raises: status 1: the two ways differ", "FAILED odd: not a figure",
                 "FAILED silent: no figures", "FAILED gone: no such script"):
        assert said in told
    assert "FAILED good" not in told
    assert lines(out) == [FIGURE, FIGURE]


def test_a_script_that_prints_what_is_no_text_fails_alone(run, folder, capsys):
    (folder / "noise.py").write_text("import sys\n\ndef main():\n    sys.stdout.buffer.write(bytes(range(128, 256)))\n"
                                     "    sys.stderr.buffer.write(bytes([255, 10]))\nmain()\nraise SystemExit(3)\n")
    scripts = [run.Benchmark("noise", "offline"), run.Benchmark("good", "offline")]
    assert run.main(["--only", "noise", "good"], folder, scripts) == 1
    told = capsys.readouterr()
    assert "FAILED noise: status 3" in told.err and "a | b" in told.out


@pytest.mark.parametrize("stubborn", [False, True])
def test_an_interrupted_run_ends_the_script_and_keeps_its_figures(run, folder, tmp_path, monkeypatch, capsys, stubborn):
    wait = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n" if stubborn else ""
    (folder / "long.py").write_text(wait + f"""
import subprocess, sys, time
def main():
    print({json.dumps(FIGURE)!r}, flush=True)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print(child.pid, flush=True)
    time.sleep(60)
main()
""")
    pids = []

    def interrupted(figure):
        monkeypatch.setattr("builtins.print", lambda text="", **kwargs: stop(text))

    def stop(text):
        monkeypatch.undo()
        pids.append(int(text))
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "show", interrupted)
    monkeypatch.setattr(run, "PATIENCE", 0.5)
    out = tmp_path / "figures.jsonl"
    assert run.main(["--only", "long", "--json", str(out)], folder, [run.Benchmark("long", "offline")]) == 130
    assert "interrupted in long" in capsys.readouterr().err
    assert lines(out) == [FIGURE]
    for _ in range(100):  # whoever adopted it may still have to notice that it is dead
        if not alive(pids[0]):
            break
        time.sleep(0.05)
    assert not alive(pids[0])


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_script_that_no_suite_has_is_noticed(run, folder, capsys):
    scripts = [run.Benchmark("good", "eval"), *table(run, "raises", "odd")]
    assert run.left_out(folder, scripts) == ["silent"]
    assert run.main(["--suite", "eval"], folder, scripts) == 1
    assert "FAILED silent: is in no suite" in capsys.readouterr().err


def test_suites_choose_scripts(run, folder, capsys):
    scripts = [run.Benchmark("good", "eval"), run.Benchmark("raises", "scaling"), *table(run, "odd", "silent")]
    assert run.main(["--suite", "eval"], folder, scripts) == 0
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run.main(["--suite", "eval", "--only", "odd"], folder, scripts)
    assert "no odd among good" in capsys.readouterr().err


def test_every_script_of_the_project_is_in_a_suite_and_there(run):
    assert run.left_out() == []
    assert {benchmark.suite for benchmark in run.TABLE} <= {suite for suites in run.SUITES.values() for suite in suites}
    for benchmark in run.TABLE:
        assert (run.FOLDER / f"{benchmark.script}.py").is_file(), benchmark.script


SPEED = ["split_building", "crop_resize", "region_stage", "store_reads", "text_embeddings", "index_search",
         "prompt_memory", "vild_step", "lvis_evaluation", "vocabulary_size", "class_adding", "episodes",
         "startup", "api", "detect_folder"]


def test_every_benchmark_of_speed_is_run_below(run):
    assert [benchmark.script for benchmark in run.TABLE if benchmark.suite in run.SUITES["all"]] == SPEED


@pytest.mark.parametrize("name", SPEED)
def test_a_benchmark_runs_at_its_smallest_size(run, name, tmp_path, capfd):
    assert run.main(["--quick", "--only", name, "--json", str(tmp_path / "figures.jsonl")]) == 0, capfd.readouterr()
    assert lines(tmp_path / "figures.jsonl")
