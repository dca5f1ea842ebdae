"""Configs: loading, overriding, moving to another data root."""

import json

import pytest
from mmdet.registry import MODELS

from ovd.engine.config import load_config, parse_options, plain, registered, resolve_types
from ovd.errors import UserError

BASE = '''
from torch.optim import SGD
data_root = "data/tiny"
class_head = "heads/a.safetensors"
pipeline = [dict(type="Resize", scale=(64, 64)), dict(type="Flip", prob=0.5)]
model = dict(type="ViLD", head=dict(class_head=class_head, width=8), absolute=data_root + "/weights.pth")
train_dataloader = dict(batch_size=2, dataset=dict(data_root=data_root, pipeline=pipeline))
optim_wrapper = dict(optimizer=dict(type=SGD, lr=0.1), betas=(0.9, 0.99))
'''
CHILD = '''
from mmengine.config import read_base
with read_base():
    from .base import *
model["head"].update(width=16)
'''


@pytest.fixture
def config(tmp_path):
    (tmp_path / "base.py").write_text(BASE)
    (tmp_path / "child.py").write_text(CHILD)
    return tmp_path / "child.py"


def test_work_dir_is_named_after_the_config(config):
    assert load_config(config).work_dir == "work_dirs/child"
    assert load_config(config, work_dir="elsewhere").work_dir == "elsewhere"


@pytest.mark.parametrize(("text", "value"), [
    ("a=1", 1), ("a=1e-4", 1e-4), ("a=true", True), ("a=None", None), ("a=word", "word"), ("a=48_17", "48_17"),
    ("a='48_17'", "48_17"), ("a=x,y", ["x", "y"]),
    ("a=[1,[2,3]]", [1, [2, 3]]), ("a=[x,y]", ["x", "y"]), ("a=[48_17,3]", ["48_17", 3]),
    ("a=(640,800)", (640, 800)), ("a=b=c", "b=c"), ("a=", ""), ("a={'k': 1}", {"k": 1}),
])
def test_values_of_options(text, value):
    assert parse_options([text]) == {"a": value}


@pytest.mark.parametrize("text", ["novalue", "=1", "+=1"])
def test_options_that_are_none_are_refused(text):
    with pytest.raises(UserError, match="not KEY=VALUE"):
        parse_options([text])


def test_options_reach_sections_lists_and_tuples(config):
    cfg = load_config(config, ["model.head.width=32", "train_dataloader.dataset.pipeline.1.prob=0",
                               "optim_wrapper.betas.0=0.5", "+model.new.key=3"])
    assert cfg.model.head.width == 32
    assert cfg.train_dataloader.dataset.pipeline[1].prob == 0
    assert cfg.optim_wrapper.betas == (0.5, 0.99)
    assert cfg.model.new.key == 3


def test_overriding_a_variable_replaces_it_where_it_was_used(config):
    cfg = load_config(config, ["class_head=heads/b.safetensors", "pipeline.0.scale=(32,32)"])
    assert cfg.model.head.class_head == "heads/b.safetensors"
    assert cfg.train_dataloader.dataset.pipeline[0].scale == (32, 32)


def test_overriding_a_section_changes_nothing_else(config):
    cfg = load_config(config, ["train_dataloader.dataset.pipeline.0.scale=(32,32)"])
    assert cfg.pipeline[0].scale == (64, 64)


def test_data_root_is_replaced_as_value_and_as_prefix(config):
    cfg = load_config(config, data_root="/mnt/big/")
    assert cfg.data_root == cfg.train_dataloader.dataset.data_root == "/mnt/big"
    assert cfg.model.absolute == "/mnt/big/weights.pth"


def test_arguments_of_a_class_may_be_set_although_the_config_does_not_mention_them(config):
    assert load_config(config, ["optim_wrapper.optimizer.momentum=0.9"]).optim_wrapper.optimizer.momentum == 0.9


@pytest.mark.parametrize(("option", "message"), [
    ("modle.head.width=3", "has no key 'modle'; did you mean model?"),
    ("model.head.widht=3", "model.head has no key 'widht'; did you mean width?"),
    ("optim_wrapper.optimizer.momentun=3", "did you mean momentum?"),
    ("model.head.width.deep=3", "model.head.width is a value (16), not a section"),
    ("model=3", "is a section, not a value"),
    ("pipeline.7.scale=1", "pipeline is a list of 2; '7' is not an index"),
    ("pipeline.first=1", "is not an index"),
])
def test_unknown_keys_are_refused_with_the_nearest(config, option, message):
    with pytest.raises(UserError) as error:
        load_config(config, [option])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_config_names_the_nearest(config):
    with pytest.raises(UserError, match=r"chidl\.py: no such config; did you mean .*child\.py"):
        load_config(config.with_name("chidl.py"))


@pytest.mark.parametrize(("text", "message"), [
    ("model = dict(", "not a valid config"), ("model = 1 / 0", "ZeroDivisionError"),
    ("from mmengine.config import read_base\nwith read_base():\n    from .absent import *\n", "absent"),
])
def test_broken_configs_give_one_line(tmp_path, text, message):
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load_config(path)
    assert str(path) in str(error.value) and message in str(error.value) and "\n" not in str(error.value)


def test_a_class_that_does_not_exist_is_found_before_work_begins(tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text("from torch.optim import SDG\nfrom mmengine.config import read_base\noptimizer = dict(type=SDG)\n")
    with pytest.raises(UserError, match="SDG"):
        resolve_types(load_config(path))


def test_a_type_that_nobody_registered_is_one_line_with_the_nearest_name(tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text("model = dict(type='MaskRCNN', neck=dict(type='FPM'))\n")
    cfg = load_config(path)
    said = "wrong.py: no module that is loaded has a type 'FPM'; did you mean .*FPN"
    with pytest.raises(UserError, match=said) as error, registered(cfg):
        MODELS.build(cfg.model.neck)
    assert "\n" not in str(error.value)
    with pytest.raises(KeyError, match="other"), registered(cfg):
        raise KeyError("other")


def test_plain_form_is_json_and_does_not_depend_on_the_order_of_keys(config):
    text = json.dumps(plain(load_config(config)))
    assert '"torch.optim.SGD"' in text or '"torch.optim.sgd.SGD"' in text
    assert list(json.loads(text)) == sorted(json.loads(text))
    assert "model" not in plain(load_config(config), without=("model",))
