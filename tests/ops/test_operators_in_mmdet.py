"""A Mask R-CNN of mmdet trains and predicts on the operators of ovd.ops."""

import mmdet.models  # noqa: F401  (registers them)
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

SIZE, CLASSES = 96, 2


def build_detector():
    convolutions = {"in_channels": 16, "conv_out_channels": 16}
    assigner = {
        "type": "MaxIoUAssigner",
        "pos_iou_thr": 0.5,
        "neg_iou_thr": 0.5,
        "min_pos_iou": 0.5,
        "ignore_iof_thr": -1,
    }
    sampler = {"type": "RandomSampler", "num": 32, "pos_fraction": 0.25, "neg_pos_ub": -1, "add_gt_as_proposals": True}
    coder = {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": [0.1, 0.1, 0.2, 0.2]}

    def extractor(size):
        return {
            "type": "SingleRoIExtractor",
            "roi_layer": {"type": "RoIAlign", "output_size": size, "sampling_ratio": 0},
            "out_channels": 16,
            "featmap_strides": [4, 8, 16, 32],
        }

    config = {
        "type": "MaskRCNN",
        "data_preprocessor": {"type": "DetDataPreprocessor", "pad_mask": True, "pad_size_divisor": 32},
        "backbone": {"type": "ResNet", "depth": 18, "base_channels": 8, "frozen_stages": -1, "style": "pytorch"},
        "neck": {"type": "FPN", "in_channels": [8, 16, 32, 64], "out_channels": 16, "num_outs": 5},
        "rpn_head": {
            "type": "RPNHead",
            "in_channels": 16,
            "feat_channels": 16,
            "anchor_generator": {
                "type": "AnchorGenerator",
                "scales": [4],
                "ratios": [1.0],
                "strides": [4, 8, 16, 32, 64],
            },
            "bbox_coder": {"type": "DeltaXYWHBBoxCoder"},
            "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True},
            "loss_bbox": {"type": "L1Loss"},
        },
        "roi_head": {
            "type": "StandardRoIHead",
            "bbox_roi_extractor": extractor(7),
            "bbox_head": {
                "type": "Shared2FCBBoxHead",
                "in_channels": 16,
                "fc_out_channels": 32,
                "roi_feat_size": 7,
                "num_classes": CLASSES,
                "bbox_coder": coder,
                "loss_cls": {"type": "CrossEntropyLoss"},
                "loss_bbox": {"type": "L1Loss"},
            },
            "mask_roi_extractor": extractor(14),
            "mask_head": dict(type="FCNMaskHead", num_convs=1, num_classes=CLASSES, **convolutions),
        },
        "train_cfg": {
            "rpn": {"assigner": assigner, "sampler": sampler, "allowed_border": -1, "pos_weight": -1},
            "rpn_proposal": {
                "nms_pre": 100,
                "max_per_img": 50,
                "nms": {"type": "nms", "iou_threshold": 0.7},
                "min_bbox_size": 0,
            },
            "rcnn": {"assigner": assigner, "sampler": sampler, "mask_size": 28, "pos_weight": -1},
        },
        "test_cfg": {
            "rpn": {
                "nms_pre": 100,
                "max_per_img": 50,
                "nms": {"type": "nms", "iou_threshold": 0.7},
                "min_bbox_size": 0,
            },
            "rcnn": {
                "score_thr": 0.01,
                "nms": {"type": "nms", "iou_threshold": 0.5},
                "max_per_img": 10,
                "mask_thr_binary": 0.5,
            },
        },
    }
    with DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(ConfigDict(config))


@pytest.fixture
def batch():
    """Two images; a bright square of class 1 on the first, nothing on the second."""
    images = torch.zeros(2, 3, SIZE, SIZE)
    images[0, :, 20:60, 24:72] = 255
    mask = np.zeros((1, SIZE, SIZE), np.uint8)
    mask[:, 20:60, 24:72] = 1
    samples = []
    for count in (1, 0):
        sample = DetDataSample(
            metainfo={"img_shape": (SIZE, SIZE), "ori_shape": (SIZE, SIZE), "scale_factor": (1.0, 1.0), "img_id": count}
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor([[24.0, 20, 72, 60]])[:count],
            labels=torch.ones(count, dtype=torch.int64),
            masks=BitmapMasks(mask[:count], SIZE, SIZE),
        )
        samples.append(sample)
    return {"inputs": list(images), "data_samples": samples}


@pytest.mark.parametrize("autocast", [False, True])
def test_mask_rcnn_trains_and_predicts(batch, autocast):
    torch.manual_seed(0)
    model = build_detector()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(6):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            data = model.data_preprocessor(batch, training=True)
            loss, parts = model.parse_losses(model(**data, mode="loss"))
        assert all(value.isfinite().all() for value in parts.values()), parts
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)

    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        results = model(**model.data_preprocessor(batch, training=False), mode="predict")
    assert any(len(result.pred_instances) for result in results)
    for result in results:
        found = result.pred_instances
        assert len(found) <= 10
        assert found.masks.shape == (len(found), SIZE, SIZE)
        assert torch.equal(found.scores, found.scores.sort(descending=True).values)
