"""Detectors of full size have the settings of the projects that they are named after."""

from pathlib import Path

import pytest

from ovd.engine.config import load_config

ROOT = Path(__file__).resolve().parents[2] / "configs"
SETTINGS = ("frozen", "norms", "norm_eval", "convs", "fcs", "temperatures", "low quality", "score_thr",
            "lambda", "top_k")


def settings(cfg) -> tuple:
    model = cfg.model
    head, stages = model.roi_head.bbox_head, model.train_cfg.rcnn
    stages = stages if isinstance(stages, list) else [stages]
    assert {(stage.sampler.num, stage.sampler.pos_fraction, stage.sampler.add_gt_as_proposals) for stage in stages} \
        == {(512, 0.25, True)}
    assert (model.test_cfg.rcnn.max_per_img, model.test_cfg.rcnn.nms.iou_threshold) == (300, 0.5)
    assert model.roi_head.distillation.weight == 0.5  # 256 of the mean over 512 entries
    dataset = cfg.train_dataloader.dataset
    dataset = dataset if "pipeline" in dataset else dataset.dataset
    regions, = (step for step in dataset.pipeline if "top_k" in step)
    return (model.backbone.frozen_stages, (model.backbone.norm_cfg.type, model.neck.norm_cfg.type, head.norm_cfg.type),
            model.backbone.norm_eval, head.num_shared_convs, head.num_shared_fcs,
            (head.classifier.temperature_train, head.classifier.temperature_test),
            {stage.assigner.match_low_quality for stage in stages}, model.test_cfg.rcnn.score_thr,
            model.test_cfg.rcnn.get("score_lambda"), regions.top_k)


@pytest.mark.parametrize(("name", "expected"), [
    ("vild/vild_ensemble_r50_fpn_lsj_lvis_866_337",
     (-1, ("SyncBN", "SyncBN", "SyncBN"), False, 4, 2, (0.01, 0.01), {True}, 1e-4, 2 / 3, 300)),
    ("detpro/detpro_r50_fpn_20e_lvis_866_337",
     (-1, ("SyncBN", "SyncBN", "SyncBN"), True, 4, 1, (0.01, 0.007), {True}, 1e-4, 2 / 3, 1000)),
    ("detpro/detpro_cascade_r50_fpn_20e_lvis_866_337",
     (-1, ("SyncBN", "SyncBN", "SyncBN"), True, 4, 1, (0.01, 0.007), {False}, 1e-3, 2 / 3, 1000)),
    ("oadp/oadp_r50_fpn_2x_lvis_866_337",
     (1, ("BN", "SyncBN", "SyncBN"), True, 4, 1, (0.01, 0.007), {False}, 1e-4, 2 / 3, 300)),
    ("oadp/oadp_r50_fpn_40k_coco_48_17",
     (1, ("BN", "SyncBN", "SyncBN"), True, 4, 1, (0.007, 0.01), {False}, 0.0, 2 / 3, 300)),
])
def test_a_detector_is_its_projects(name, expected):
    cfg = load_config(ROOT / f"{name}.py")
    assert dict(zip(SETTINGS, settings(cfg))) == dict(zip(SETTINGS, expected))
    if name.startswith("oadp/oadp_r50_fpn_40k"):
        assert cfg.model.roi_head.mask_head is None
        assert cfg.optim_wrapper.paramwise_cfg.custom_keys == {"roi_head.bbox_head": {"lr_mult": 0.5}}
