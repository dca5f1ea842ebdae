"""Large-scale jitter as shipped: cached regions show the same part of the photo before and after, or are gone."""

from pathlib import Path

import numpy as np
import torch
from mmdet.registry import DATASETS
from mmengine.registry import init_default_scope
from PIL import Image
from small_scale import SIDE, make_data

from ovd.engine.config import load_config
from ovd.stores.shards import Regions, RegionStore

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "vild" / "vild_r50_fpn_lsj_coco_48_17.py"
COUNT, WIDTH = 40, 512


def test_regions_are_cropped_with_their_embeddings(tmp_path):
    cfg = load_config(CONFIG, data_root=tmp_path)
    make_data(cfg, tmp_path)
    places = np.round(np.arange(SIDE) * 255 / (SIDE - 1)).astype(np.uint8)  # a pixel's colour says where it is
    picture = np.stack([*np.meshgrid(places, places), np.zeros((SIDE, SIDE), np.uint8)], axis=-1)
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(0, SIDE, (COUNT, 2, 2)), axis=1)
    corners[:, 1] = np.minimum(corners[:, 1] + 4, SIDE)
    boxes = corners.reshape(COUNT, 4).astype(np.float32)
    store = tmp_path / cfg.region_store
    ids = RegionStore(store).image_ids
    for path in (tmp_path / cfg.train_prefix).iterdir():
        Image.fromarray(picture).save(path)
    for file in store.iterdir():
        file.unlink()
    writer = RegionStore.create(store, "regions", ids, dim=WIDTH)
    numbered = np.eye(COUNT, WIDTH, dtype=np.float16)  # an embedding says which region it is of
    for shard in range(writer.total_shards):
        writer.write(shard, {i: Regions(boxes, np.full(COUNT, 0.5, np.float32), numbered)
                             for i in writer.image_ids(shard)})
    writer.finish("embed-regions", {}, {"clip": "sha256:x"})

    init_default_scope("mmdet")
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    kept, sizes = [], []
    np.random.seed(0)  # noqa: NPY002 (what transforms draw from)
    for _ in range(12):
        sample = dataset[0]
        image, regions = sample["inputs"].numpy(), sample["data_samples"].regions
        assert max(image.shape[1:]) <= 1024
        rows = regions.embeddings.argmax(dim=1)
        assert torch.equal(regions.embeddings, torch.from_numpy(numbered)[rows])
        flipped = sample["data_samples"].flip
        visible = shown(image, np.array([0, 0, image.shape[2], image.shape[1]]), flipped)
        scale = image.shape[2] / (visible[2] - visible[0])
        for box, row in zip(regions.bboxes.numpy(), rows.tolist()):
            clipped = np.concatenate([np.maximum(boxes[row][:2], visible[:2]), np.minimum(boxes[row][2:], visible[2:])])
            assert np.abs(shown(image, box, flipped) - clipped).max() < 0.7 + 2 / scale  # pixels of the photo
        overlap = np.minimum(boxes[:, 2:], visible[2:]) - np.maximum(boxes[:, :2], visible[:2])
        clearly = np.abs(overlap).min(axis=1) > 0.7
        assert set(rows.tolist()) >= set(np.flatnonzero((overlap.min(axis=1) > 0) & clearly))
        assert not set(rows.tolist()) & set(np.flatnonzero((overlap.min(axis=1) < 0) & clearly))
        kept.append(len(rows))
        sizes.append(max(image.shape[1:]))
    assert min(kept) < COUNT == max(kept)
    assert min(sizes) < 1024 == max(sizes)


def shown(image: np.ndarray, box: np.ndarray, flipped: bool) -> np.ndarray:
    """Which part of the photo a box of the transformed image shows (xyxy, pixels of the photo), by its colours."""
    x1, y1, x2, y2 = box
    columns = np.clip(np.round([x1, x2 - 1]).astype(int), 0, image.shape[2] - 1)
    lines = np.clip(np.round([y1, y2 - 1]).astype(int), 0, image.shape[1] - 1)
    xs = np.sort(image[2, lines[0], columns] / 255 * (SIDE - 1))
    ys = np.sort(image[1, lines, columns[0]] / 255 * (SIDE - 1))
    return np.array([xs[0], ys[0], xs[1] + 1, ys[1] + 1])
