"""Row "mapper": from the files of a training image to its tensors, against Detectron2's PanopticDeeplabDatasetMapper.

Both draw the same random numbers and see every scale of the config in every round. Decoding, which is Pillow's in both,
takes the most of ours, so what is not decoding is a case of its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, median
from typing import Any

import cv2
import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.projects.panoptic_deeplab import PanopticDeeplabDatasetMapper
from drawing import photograph
from measuring import cpu_ms
from PIL import Image, ImageFile
from targets import label, same

from panoptic_plugin.config import load_config
from panoptic_plugin.data.mapper import PanopticMapper
from panoptic_plugin.structures import ids_to_rgb

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RECIPE = "panoptic_deeplab_R_52_os16_mg124_poly_{}_dsconv.yaml"
CITYSCAPES = CONFIGS / "Cityscapes-PanopticSegmentation" / RECIPE.format("90k_bs32_crop_512_1024")
COCO = CONFIGS / "COCO-PanopticSegmentation" / RECIPE.format("200k_bs64_crop_640_640_coco")
# name: (config, size, objects, share of things, format of the image's file, ratio to reach)
CASES = {
    "1024x2048, 30": (CITYSCAPES, (1024, 2048), 30, 0.07, "png", 2.2),
    "640x640, 15": (COCO, (640, 640), 15, 0.5, "jpg", 2.5),
}
ASKED_WITHOUT_DECODING = 6
TARGETS = ("sem_seg", "center", "center_points", "offset", "sem_seg_weights", "center_weights", "offset_weights")


def measure(*, rounds: int, quick: bool) -> Iterator[dict[str, Any]]:
    """Two records a case: the whole, and what is not decoding."""
    for name, (config, size, num_objects, share, suffix, asked) in CASES.items():
        if quick:
            size = (size[0] // 4 // 64 * 64, size[1] // 4 // 64 * 64)
        cfg = load_config(str(config))
        with tempfile.TemporaryDirectory() as folder:
            sample = write_sample(Path(folder), cfg, size, num_objects, share, suffix)
            job = Job(cfg, sample)
            for seed in range(1 if quick else rounds):
                job.run_round(seed)
        common = {
            "row": "mapper",
            "reference": "Detectron2",
            "equality": "every bit of image and targets",
            "equal": job.equal,
            "scales": len(job.scales),
            "rounds": len(job.ours),
        }
        for part, goal, column in (("", asked, 0), (", what is not decoding", ASKED_WITHOUT_DECODING, 1)):
            yield {**common, "case": name + part, "asked": goal, **summary(job.ours, job.theirs, column)}


class Job:
    """One sample through both mappers.

    Attributes:
        ours, theirs: a pair of milliseconds an image for every round: all, and without decoding.
        equal: all samples were.
    """

    def __init__(self, cfg: Any, sample: dict[str, Any]) -> None:
        self.sample = sample
        self.scales = list(cfg.INPUT.MIN_SIZE_TRAIN)
        self.our_mapper, self.their_mapper = PanopticMapper(cfg), PanopticDeeplabDatasetMapper(cfg)
        self.resizes = [self.our_mapper.augmentations.augs[0].resize, self.their_mapper.augmentations.augs[0]]
        self.ours: list[tuple[float, float]] = []
        self.theirs: list[tuple[float, float]] = []
        self.equal = True

    def run_round(self, seed: int) -> None:
        """Every scale once, with another crop and flip each."""
        ours, theirs = [], []
        for place, scale in enumerate(self.scales):
            for resize in self.resizes:
                resize.short_edge_length = [scale]
            times, expected = self._map(self.their_mapper, seed * 100 + place)
            theirs.append(times)
            times, found = self._map(self.our_mapper, seed * 100 + place)
            ours.append(times)
            self.equal &= all(same(found[key], expected[key]) for key in ("image", *TARGETS))
        self.ours.append(tuple(fmean(column) for column in zip(*ours, strict=True)))
        self.theirs.append(tuple(fmean(column) for column in zip(*theirs, strict=True)))

    def _map(self, mapper: Any, seed: int) -> tuple[tuple[float, float], dict[str, Any]]:
        np.random.seed(seed)
        with decoding_times() as decoding:
            milliseconds, sample = cpu_ms(lambda: mapper(self.sample))
        return (milliseconds, milliseconds - sum(decoding)), sample


@contextmanager
def decoding_times() -> Iterator[list[float]]:
    """Milliseconds of every decoding by Pillow while the context lasts."""
    load, times = ImageFile.ImageFile.load, []

    def timed(image: ImageFile.ImageFile) -> Any:
        milliseconds, pixels = cpu_ms(lambda: load(image))
        times.append(milliseconds)
        return pixels

    ImageFile.ImageFile.load = timed
    try:
        yield times
    finally:
        ImageFile.ImageFile.load = load


def summary(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]], column: int) -> dict[str, float]:
    """Medians over the rounds."""
    own, reference = ([one[column] for one in times] for times in (ours, theirs))
    ratios = [other / one for other, one in zip(reference, own, strict=True)]
    return {
        "ours_ms": round(median(own), 2),
        "reference_ms": round(median(reference), 1),
        "ratio": round(median(ratios), 2),
    }


def write_sample(
    folder: Path, cfg: Any, size: tuple[int, int], num_objects: int, share: float, suffix: str
) -> dict[str, Any]:
    """A dataset dict of a smooth scene, with its files: about 3 MB for a PNG of 1024x2048."""
    is_coco = suffix == "jpg"
    ids, segments = label(size, num_objects, share, colours=is_coco)
    picture = photograph(ids, segments, MetadataCatalog.get("cityscapes_fine_panoptic_val"))
    if is_coco:  # where stuff comes after 80 classes of things
        segments = [{**one, "category_id": (one["category_id"] + 80) % 91} for one in segments]
    files = {"file_name": str(folder / f"image.{suffix}"), "pan_seg_file_name": str(folder / "label.png")}
    Image.fromarray(cv2.GaussianBlur(picture, (0, 0), 0.7)).save(files["file_name"], quality=90)
    Image.fromarray(ids_to_rgb(ids)).save(files["pan_seg_file_name"])
    return {**files, "segments_info": segments, "image_id": 1, "height": size[0], "width": size[1]}
