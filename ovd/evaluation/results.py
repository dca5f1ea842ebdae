"""Results as files: figures as json; detections as COCO's results json, or as a pickle of arrays per image."""

import json
import math
import os
import pickle
from collections.abc import Mapping
from pathlib import Path

from ovd.evaluation.average_precision import GroundTruth
from ovd.stores.atomic import atomic_write, write_bytes


def save_metrics(folder: str | os.PathLike, metrics: Mapping[str, float], marks: Mapping[str, bool]) -> Path:
    """Write ``metrics.json`` into ``folder``: the figures (null for NaN) and ``marks``; returns its path."""
    path = Path(folder, "metrics.json")
    figures = {name: None if math.isnan(value) else value for name, value in metrics.items()}
    write_bytes(path, (json.dumps({**figures, **marks}, indent=1) + "\n").encode())
    return path


def save_detections(path: str | os.PathLike, records: dict[int, dict], truth: GroundTruth) -> None:
    """Write the detections of :class:`~ovd.evaluation.metric.OpenVocabMetric`.

    Args:
        path: ``.json``: a list of ``{"image_id", "category_id", "bbox" (x, y, width, height), "score"[,
            "segmentation"]}``, with the category ids of the annotation file. ``.pkl``: a list of ``{"img_id", "bboxes"
            [n, 4] xyxy, "scores", "labels"[, "masks"]}``, with labels of the split.
        records: image id -> its record.
        truth: gives the category ids.
    """
    with atomic_write(path) as temporary:
        if Path(path).suffix == ".json":
            temporary.write_text(json.dumps([row for record in records.values() for row in _rows(record, truth)]))
        else:
            with open(temporary, "wb") as file:
                pickle.dump([_arrays(record) for record in records.values()], file)


def _rows(record: dict, truth: GroundTruth) -> list[dict]:
    rows = []
    masks = list(record.get("masks", ()))
    for index, (x1, y1, x2, y2) in enumerate(record["boxes"].tolist()):
        row = {"image_id": record["image_id"], "category_id": int(truth.category_ids[record["labels"][index]]),
               "bbox": [x1, y1, x2 - x1, y2 - y1], "score": float(record["scores"][index])}
        if masks:
            mask = masks[index]
            row["segmentation"] = {"size": list(mask["size"]), "counts": mask["counts"].decode()}
        rows.append(row)
    return rows


def _arrays(record: dict) -> dict:
    arrays = {"img_id": record["image_id"], "bboxes": record["boxes"], "scores": record["scores"],
              "labels": record["labels"]}
    return {**arrays, "masks": list(record["masks"])} if "masks" in record else arrays
