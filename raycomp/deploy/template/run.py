# SPDX-License-Identifier: Apache-2.0
"""Segment an image: `python run.py IMAGE LABELS.png [MODEL.onnx]` writes the class of every pixel as a grey PNG.

Needs numpy, pillow and onnxruntime. facts.json names the classes and describes the input of the models.
Legend: K classes, H W pixels.
"""

import json
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

from resizing import enlarged, resized, scaled

HERE = Path(__file__).parent


def segmented(image: np.ndarray, session: onnxruntime.InferenceSession, facts: dict[str, Any]) -> np.ndarray:
    """Return the class of every pixel (H, W) of an RGB image (H, W, 3); both are uint8."""
    (height, width), stride = facts["window"], facts["stride"]
    mean, std = (np.array(facts[name])[:, None, None] for name in ("mean", "std"))
    x = resized(image.transpose(2, 0, 1), scaled(image.shape[:2], facts["short_side"], facts["long_side"]))
    x = x * np.float32(1 / (255 * std)) - np.float32(mean / std)
    x = resized(x, enlarged(x.shape[1:], height, width))
    logits, count = np.zeros((len(facts["classes"]), *x.shape[1:]), np.float32), np.zeros(x.shape[1:], np.float32)
    for top, left in product(starts(x.shape[1], height, stride), starts(x.shape[2], width, stride)):
        window = (slice(None), slice(top, top + height), slice(left, left + width))
        logits[window] += session.run(None, {"images": x[window][None]})[0][0]
        count[window[1:]] += 1
    labels, best = np.zeros(image.shape[:2], np.uint8), np.full(image.shape[:2], -np.inf, np.float32)
    for index in range(len(logits)):  # one class at a time, because all of a large image take gigabytes
        [score] = resized(logits[index : index + 1] / count, labels.shape)
        labels[score > best] = index
        best = np.maximum(best, score)
    return labels


def starts(side: int, window: int, stride: int) -> list[int]:
    """Return where windows start along one side; the last one ends at the edge."""
    return [*range(0, side - window, stride), side - window]


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    facts = json.loads((HERE / "facts.json").read_text(encoding="utf-8"))
    model = sys.argv[3] if len(sys.argv) == 4 else str(HERE / facts["models"][0])
    image = ImageOps.exif_transpose(Image.open(sys.argv[1]))
    if image.mode[0] in "IF":  # Pillow would clip these values
        sys.exit(f"{sys.argv[1]}: save it with 8 bits per channel")
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    Image.fromarray(segmented(np.array(image.convert("RGB")), session, facts)).save(sys.argv[2])
