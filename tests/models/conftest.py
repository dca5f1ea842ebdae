"""A detector small enough to train a step in a tenth of a second, and samples to feed it."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import PolygonMasks
from mmengine.config import Config
from mmengine.structures import InstanceData
from small_vocabulary import SPLIT, WIDTH, make_head

HEIGHT_WIDTH = (96, 128)


def narrow(model) -> None:
    """Few channels, few regions."""
    model.backbone = {"type": "ResNet", "depth": 18, "base_channels": 8, "norm_eval": True, "norm_cfg": {"type": "BN"}}
    model.neck.update(in_channels=[8, 16, 32, 64], out_channels=16)
    model.rpn_head.update(in_channels=16, feat_channels=16)
    roi = model.roi_head
    roi.bbox_roi_extractor.out_channels = roi.mask_roi_extractor.out_channels = 16
    roi.bbox_head.update(in_channels=16, conv_out_channels=16, fc_out_channels=32, num_shared_convs=1)
    roi.mask_head.update(in_channels=16, conv_out_channels=16, num_convs=1)
    model.train_cfg.rpn_proposal.max_per_img = 60
    stages = model.train_cfg.rcnn
    for stage in stages if isinstance(stages, list) else [stages]:
        stage.sampler.num = 32
    model.test_cfg.rpn.max_per_img = 40


@pytest.fixture(scope="session")
def detector_config(root):
    """Function of ``mode`` that returns a base config with narrow layers; keyword arguments are the classifier's."""
    bases = {}

    def make(mode: str, base: str = "vild_mask_rcnn_r50_fpn", **classifier):
        if base not in bases:
            bases[base] = Config.fromfile(root / f"configs/_base_/models/{base}.py").model
            narrow(bases[base])
        config = copy.deepcopy(bases[base])
        config.mode = mode
        if mode != "ensemble":
            config.roi_head.pop("image_head", None)
        config.roi_head.bbox_head.classifier = {"type": "CosineClassifier", "class_head": make_head(), "split": SPLIT,
                                                **classifier}
        return config

    return make


@pytest.fixture
def build(detector_config):
    """Function of ``mode`` that builds a small detector with fixed weights."""

    def make(mode: str, seed: int = 0, adapt=None, **options):
        config = detector_config(mode, **options)
        if adapt is not None:
            adapt(config)
        torch.manual_seed(seed)
        detector = MODELS.build(config)
        detector.init_weights()
        return detector

    return make


@pytest.fixture
def batch():
    """Function that returns a batch of two images; ``regions`` gives the number of cached regions of each."""

    def make(regions=(5, 3), scale: float = 2.0, seed: int = 0) -> dict:
        """Ground truth is in input pixels, as in training; the images were resized by ``scale``."""
        generator = torch.Generator().manual_seed(seed)
        height, width = HEIGHT_WIDTH
        samples = []
        for count in regions:
            sample = DetDataSample(metainfo={
                "img_shape": HEIGHT_WIDTH, "ori_shape": (int(height / scale), int(width / scale)),
                "scale_factor": (scale, scale), "batch_input_shape": HEIGHT_WIDTH, "pad_shape": HEIGHT_WIDTH})
            boxes = torch.tensor([[10.0, 10, 60, 60], [50, 20, 100, 80], [5, 40, 45, 90]])
            corners = [[np.array([x1, y1, x2, y1, x2, y2, x1, y2])] for x1, y1, x2, y2 in boxes.tolist()]
            sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 3, 1]),
                                               masks=PolygonMasks(corners, *HEIGHT_WIDTH))
            sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
            if count is not None:
                top_left = torch.rand(count, 2, generator=generator) * 50
                size = torch.rand(count, 2, generator=generator) * 40 + 4
                embeddings = F.normalize(torch.randn(count, WIDTH, generator=generator), dim=-1).half()
                sample.regions = InstanceData(bboxes=torch.cat([top_left, top_left + size], 1), embeddings=embeddings)
            samples.append(sample)
        images = [torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator) for _ in regions]
        return {"inputs": images, "data_samples": samples}

    return make
