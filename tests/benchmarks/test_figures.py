"""Figures: a ratio above 1 is better whatever the unit; only lines of that form are figures."""

import json
import math
import platform

import pytest


@pytest.fixture(scope="module")
def figures(script):
    return script("figures")


def printed(figures, capsys, *args, **kwargs) -> dict:
    figures.print_figure(*args, **kwargs)
    return figures.parsed(capsys.readouterr().out)


def test_less_is_better_unless_said(figures, capsys):
    assert printed(figures, capsys, "reading", 2.0, "s", "torch", 8.0)["ratio"] == 4
    assert printed(figures, capsys, "reading", 2.0, "images/s", "torch", 8.0, higher_is_better=True)["ratio"] == 0.25
    assert printed(figures, capsys, "right", 0.0, "share", "chance", 0.5, higher_is_better=True)["ratio"] == 0


def test_numbers_keep_four_digits_and_whole_parts(figures, capsys):
    figure = printed(figures, capsys, "reading", 0.000123456, "s", "torch", 1234567.8)
    assert (figure["value"], figure["peer_value"]) == (0.0001235, 1234568)


def test_the_machine_has_no_host_name(figures, capsys):
    machine = printed(figures, capsys, "reading", 1, "s", "torch", 2)["machine"]
    assert "core" in machine and "torch" in machine
    assert len(platform.node()) < 4 or platform.node() not in machine


@pytest.mark.parametrize(("value", "peer_value"), [(math.nan, 1), (0.0, 1), (-1.0, 1), (1, math.inf), (1, -1)])
def test_what_has_no_ratio_is_no_figure(figures, value, peer_value):
    with pytest.raises(ValueError, match="reading"):
        figures.print_figure("reading", value, "s", "torch", peer_value)


GOOD = {"name": "a", "value": 1.5, "unit": "s", "peer": "b", "peer_value": 3, "ratio": 2.0, "machine": "m"}


@pytest.mark.parametrize("wrong", [{"ratio": "2"}, {"value": None}, {"value": True}, {"extra": 1}, {"name": 3},
                                   {"ratio": math.nan}])
def test_lines_of_another_form_are_refused(figures, wrong):
    assert figures.parsed(json.dumps(GOOD)) == GOOD
    with pytest.raises(ValueError, match=str(next(iter(wrong)))):
        figures.parsed(json.dumps(GOOD | wrong))


def test_a_missing_field_and_cut_lines_are_refused(figures):
    with pytest.raises(ValueError, match="machine"):
        figures.parsed(json.dumps({key: value for key, value in GOOD.items() if key != "machine"}))
    with pytest.raises(ValueError):
        figures.parsed(json.dumps(GOOD)[:-4])
