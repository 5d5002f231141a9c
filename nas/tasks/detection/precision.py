"""Average precision, as COCO defines it and pycocotools computes it.

Lin et al., "Microsoft COCO: Common Objects in Context", 2014, https://arxiv.org/abs/1405.0312.
"""

import contextlib
import io
from typing import Any

import numpy as np

from nas.tasks.detection import CLASS, IGNORED, SIDE

# In the order of pycocotools' summary: over all thresholds, at two, and by the size of objects in the file.
NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def average_precision(found: np.ndarray, objects: np.ndarray) -> dict[str, float]:
    """By the names of `NAMES`, shares in [0, 1]; those of sizes that no object has are left out.

    `found` are `[images, most, 6]`, as `boxes.detections` gives them, `objects` the labels `[images, objects, 7]`.
    Where there is no object at all that counts, `ap` is not a number.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = [
        {**_box(row[:4] * row[SIDE]), "image_id": i, "category_id": int(row[CLASS]), "iscrowd": int(row[IGNORED])}
        for i, rows in enumerate(objects)
        for row in rows[rows[:, CLASS] >= 0]
    ]
    answers = [
        {**_box(row[:4] * rows[0, SIDE]), "image_id": i, "category_id": int(row[5]), "score": float(row[4])}
        for i, (answer, rows) in enumerate(zip(found, objects, strict=True))
        for row in answer[answer[:, 5] >= 0]
    ]
    counted = {row["category_id"] for row in truth if not row["iscrowd"]}
    if not counted:
        return {"ap": float("nan")}
    if not answers:
        return dict.fromkeys(NAMES[:3], 0.0)
    for number, row in enumerate(truth, 1):
        row["id"] = number
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        coco: Any = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": i} for i in range(len(objects))],
            "annotations": truth,
            "categories": [{"id": label} for label in sorted({row["category_id"] for row in truth})],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(answers), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: float(value) for name, value in zip(NAMES, evaluation.stats, strict=False) if value >= 0}


def _box(corners: np.ndarray) -> dict:
    x0, y0, x1, y1 = map(float, corners)
    return {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
