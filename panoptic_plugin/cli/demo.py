"""Draw the panoptic segmentation of images: ``demo.py``, ``panoptic demo``."""

from __future__ import annotations

import argparse
import glob
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from tqdm import tqdm

from panoptic_plugin.cli.run import run_cli
from panoptic_plugin.config import load_config
from panoptic_plugin.data.catalog import check_dataset_names, register_custom_datasets
from panoptic_plugin.data.reading import read_image
from panoptic_plugin.engine.predictor import Predictor
from panoptic_plugin.engine.setup import set_up_logs
from panoptic_plugin.errors import CheckpointError, ConfigError, UserError
from panoptic_plugin.structures import ids_to_rgb
from panoptic_plugin.visualization.draw import class_name, draw_panoptic, list_segments

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
WINDOW = "panoptic demo"
ESCAPE = 27


def build_parser() -> argparse.ArgumentParser:
    """Options of the demo; those of Detectron2's demo keep their names."""
    parser = argparse.ArgumentParser(description="Draw the panoptic segmentation of images.")
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config of the model")
    parser.add_argument("--input", nargs="+", metavar="PATH", help="images, one quoted glob pattern, or a folder")
    parser.add_argument("--output", metavar="PATH", help="folder for the pictures, or a file for a single input")
    parser.add_argument("--video-input", metavar="FILE", help="not available yet")
    parser.add_argument("--webcam", action="store_true", help="not available yet")
    parser.add_argument(
        "--confidence-threshold", type=float, default=0.0, metavar="X",
        help="leave out things whose score is below X, from 0 to 1 (default: %(default)s, draw all)",
    )  # fmt: skip
    parser.add_argument("--weights", metavar="PATH", help="short for --opts MODEL.WEIGHTS PATH")
    parser.add_argument("--device", metavar="NAME", help="short for --opts MODEL.DEVICE NAME: cuda or cpu")
    parser.add_argument(
        "--save-ids", action="store_true", help="also write the ids (PNG, COCO's panoptic coding) and segments (JSON)"
    )
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE overrides of the config")
    return parser


def run(args: argparse.Namespace) -> int:
    """Check everything that can be checked before the model is loaded, then draw image after image."""
    _check_arguments(args)
    inputs = find_inputs(args.input)
    outputs = output_paths(inputs, args.output) if args.output else [None] * len(inputs)
    cfg = _load_config(args)
    metadata = _metadata(cfg)
    set_up_logs(None)
    predictor = Predictor(cfg)
    # A bar that is drawn over log lines helps nobody, so it is for terminals only.
    for path, output in tqdm(list(zip(inputs, outputs, strict=True)), unit="image", disable=None):
        image = read_image(str(path), "RGB")
        started = time.perf_counter()
        ids, segments = confident_segments(predictor(image), metadata, args.confidence_threshold)
        seconds = time.perf_counter() - started
        logger.info("%s: %d segments in %.2f s", path, len(segments), seconds)
        picture = draw_panoptic(image, ids, metadata, segments_info=segments)
        if output is None:
            if not _show(picture):
                break
            continue
        _write_image(output, picture)
        if args.save_ids:
            _write_ids(output, ids, segments, metadata)
    if args.output:
        logger.info("%d pictures written to %s", len(inputs), args.output)
    return 0


def _check_arguments(args: argparse.Namespace) -> None:
    if args.video_input or args.webcam:
        name = "--webcam" if args.webcam else "--video-input"
        raise UserError(f"{name} is not available yet; cut the video into images and name them with --input")
    if not args.input:
        raise UserError("no input: name images, a quoted glob pattern or a folder with --input")
    if not 0 <= args.confidence_threshold <= 1:
        raise UserError(f"--confidence-threshold is {args.confidence_threshold}, expected a number from 0 to 1")
    if args.save_ids and not args.output:
        raise UserError("--save-ids needs a folder; name it with --output")
    if not args.output and not _has_display():
        raise UserError("there is no display to show pictures on; name a folder for them with --output")


def _has_display() -> bool:
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    information = cv2.getBuildInformation()
    return "GUI:                           NONE" not in information


def find_inputs(words: Sequence[str]) -> list[Path]:
    """The images that ``--input`` names: files, one glob pattern, or the images of one folder, sorted.

    Raises:
        UserError: a file that does not exist, or a pattern or folder without images.
    """
    if len(words) == 1:
        word = os.path.expanduser(words[0])
        if os.path.isdir(word):
            found = sorted(path for path in Path(word).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
            if not found:
                raise UserError(f"the folder {word} holds no image ({', '.join(IMAGE_SUFFIXES)})")
            return found
        if not os.path.exists(word) and glob.has_magic(word):
            found = sorted(Path(path) for path in glob.glob(word, recursive=True) if os.path.isfile(path))
            if not found:
                raise UserError(f"no file matches {word}")
            return found
    paths = [Path(word).expanduser() for word in words]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise UserError(f"input {', '.join(missing[:5])} does not exist; {len(missing)} of {len(paths)} are missing")
    return paths


def output_paths(inputs: Sequence[Path], output: str) -> list[Path]:
    """Where each picture goes; no two share a file, and none replaces an input.

    Args:
        inputs: the images.
        output: a folder, made where it does not exist; or a file name with an image's suffix for one input.

    Raises:
        UserError: a file name for several inputs, or a folder that cannot be made.
    """
    target = Path(output).expanduser()
    is_file = target.suffix.lower() in IMAGE_SUFFIXES and not target.is_dir()
    if is_file and len(inputs) > 1:
        raise UserError(f"--output {output} is one file, but there are {len(inputs)} inputs; name a folder")
    folder = target.parent if is_file else target
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder} cannot be made: {error.strerror or error}") from None
    taken = {path.resolve() for path in inputs}
    paths = []
    for image in inputs:
        candidates = [target] if is_file else _candidates(folder, image)
        path = next((one for one in candidates if one.resolve() not in taken), None)
        if path is None:
            raise UserError(f"--output {target} would replace the input; name another file")
        taken.add(path.resolve())
        paths.append(path)
    return paths


def _candidates(folder: Path, image: Path):
    """a.jpg, then <its folder>_a.jpg, then a_panoptic.jpg, a_panoptic_2.jpg, ..."""
    suffix = image.suffix if image.suffix.lower() in (".jpg", ".jpeg", ".png") else ".png"
    yield folder / f"{image.stem}{suffix}"
    if image.parent.name:
        yield folder / f"{image.parent.name}_{image.stem}{suffix}"
    yield folder / f"{image.stem}_panoptic{suffix}"
    number = 2
    while True:
        yield folder / f"{image.stem}_panoptic_{number}{suffix}"
        number += 1


def _load_config(args: argparse.Namespace) -> CfgNode:
    overrides = list(args.opts)
    if args.weights:
        overrides += ["MODEL.WEIGHTS", args.weights]
    if args.device:
        overrides += ["MODEL.DEVICE", args.device]
    cfg = load_config(args.config_file, overrides)
    if not cfg.MODEL.WEIGHTS:
        raise CheckpointError("no weights: name a trained model with --weights PATH")
    return cfg


def _metadata(cfg: CfgNode) -> Any:
    register_custom_datasets(cfg)
    check_dataset_names(cfg)
    names = [*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN]
    if not names:
        raise ConfigError("DATASETS.TEST is empty; name the dataset whose classes the model knows")
    return MetadataCatalog.get(names[0])


def confident_segments(
    output: dict[str, Any], metadata: Any, threshold: float
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Ids and segments of a model's output, without the things whose score is below ``threshold``.

    Args:
        output: the output dict; ``panoptic_seg`` and, where the model gives it, ``segments_info``.
        metadata: the dataset's metadata.
        threshold: things below it turn into void; segments without a score stay.

    Returns:
        int64 (H, W) ids, void -1; and the segments that are left.
    """
    panoptic, listed = output["panoptic_seg"]
    ids = panoptic.cpu().numpy()
    segments = output.get("segments_info") or listed
    if segments is None:
        segments = list_segments(ids, getattr(metadata, "label_divisor", 1000))
    kept = [one for one in segments if one.get("score") is None or float(one["score"]) >= threshold]
    if len(kept) < len(segments):
        dropped = [one["id"] for one in segments if one not in kept]
        ids = np.where(np.isin(ids, dropped), -1, ids)
    return ids, [dict(one) for one in kept]


def _write_ids(output: Path, ids: np.ndarray, segments: Sequence[dict[str, Any]], metadata: Any) -> None:
    # Ids are shifted by one: in COCO's coding 0 is void.
    _write_image(output.with_name(f"{output.stem}_ids.png"), ids_to_rgb(np.maximum(ids, -1) + 1))
    listed = [
        {
            "id": int(one["id"]) + 1,
            "category_id": int(one["category_id"]),
            "category": class_name(metadata, int(one["category_id"])),
            "area": int((ids == one["id"]).sum()),
            "score": None if one.get("score") is None else float(one["score"]),
        }
        for one in segments
    ]
    output.with_name(f"{output.stem}_segments.json").write_text(json.dumps(listed, indent=2), encoding="utf-8")


def _write_image(path: Path, rgb: np.ndarray) -> None:
    if not cv2.imwrite(str(path), np.ascontiguousarray(rgb[..., ::-1])):
        raise UserError(f"{path} cannot be written; check the folder's permissions and the free space")


def _show(picture: np.ndarray) -> bool:
    """Show a picture until a key is pressed; False for Escape."""
    cv2.namedWindow(WINDOW, cv2.WINDOW_NORMAL)
    cv2.imshow(WINDOW, np.ascontiguousarray(picture[..., ::-1]))
    return cv2.waitKey(0) != ESCAPE


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_cli(run, build_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
