"""Draw the panoptic segmentation of images, a video or a camera: ``demo.py``, ``panoptic demo``."""

from __future__ import annotations

import argparse
import contextlib
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from panoptic_plugin.cli.demo_inputs import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Shot, find_inputs, image_shots, video_shots
from panoptic_plugin.cli.demo_outputs import (
    Attention,
    CocoJson,
    Ids,
    Output,
    Pictures,
    Video,
    Window,
    WindowClosed,
    has_display,
    is_file_name,
    make_folder,
    output_paths,
)
from panoptic_plugin.cli.run import INTERRUPTED, one_line, run_cli
from panoptic_plugin.engine.predictor import PanopticPredictor, load_model
from panoptic_plugin.engine.setup import set_up_logs
from panoptic_plugin.engine.streaming import Background, Prefetch, batches
from panoptic_plugin.errors import UserError
from panoptic_plugin.visualization.tracking import Tracker
from panoptic_plugin.visualization.video import VideoReader

logger = logging.getLogger(__name__)

FORMATS = ("overlay", "ids", "json")
EPILOG = """\
examples:
  pictures, single files and whole folders:
    %(prog)s --config-file F.yaml --weights model_final.pth --input a.jpg photos/ --output drawn
  ids and COCO's panoptic JSON besides:
    %(prog)s --config-file F.yaml --weights model_final.pth --input photos/ --output drawn --output-format ids json
  a video; the first camera, in a window:
    %(prog)s --config-file F.yaml --weights model_final.pth --video-input drive.mp4 --output drawn.mp4
    %(prog)s --config-file F.yaml --weights model_final.pth --webcam

More: docs/demo.md
"""


def build_parser() -> argparse.ArgumentParser:
    """Options of the demo; those of Detectron2's demo keep their names."""
    parser = argparse.ArgumentParser(
        description="Draw the panoptic segmentation of images, a video or a camera.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config of the model")
    parser.add_argument("--input", nargs="+", metavar="PATH", help="images, folders, quoted glob patterns")
    parser.add_argument("--video-input", metavar="FILE", help="a video")
    parser.add_argument("--webcam", nargs="?", type=int, const=0, metavar="N", help="a camera, by number (default: 0)")
    parser.add_argument(
        "--output", metavar="PATH", help="a folder, or a file for one image or video; without it, a window is opened"
    )
    parser.add_argument(
        "--output-format", nargs="+", choices=FORMATS, default=["overlay"], metavar="FORMAT",
        help="of overlay (pictures or a video), ids (PNGs of ids) and json (COCO's panoptic format) (default: overlay)",
    )  # fmt: skip
    parser.add_argument(
        "--confidence-threshold", type=float, default=0.0, metavar="X",
        help="things whose score is below X, from 0 to 1, become void (default: %(default)s, keep all)",
    )  # fmt: skip
    parser.add_argument(
        "--attention", action="store_true",
        help="also write NAME_attention.png beside each picture: what a DETR's encoder and queries look at",
    )  # fmt: skip
    parser.add_argument("--weights", metavar="PATH", help="short for --opts MODEL.WEIGHTS PATH")
    parser.add_argument("--device", metavar="NAME", help="short for --opts MODEL.DEVICE NAME: cuda or cpu")
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="images that run together (default: 4 on a GPU, 1 on a CPU)"
    )
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[],
        help="KEY VALUE overrides of the config; the last option, for all words after it are taken as such",
    )  # fmt: skip
    return parser


@dataclass
class Job:
    """What is read and where it goes.

    Attributes:
        shots: a function that starts the reading; its argument is INPUT.MAX_IMAGE_PIXELS.
        total: how many shots there are; None where nobody knows.
        outputs: a function that opens the outputs; its argument is the metadata.
        video: the shots follow each other in time.
        live: they come from a camera.
        window: they are shown, and there is no file.
    """

    shots: Any
    total: int | None
    outputs: Any
    video: bool = False
    live: bool = False
    window: bool = False


def run(args: argparse.Namespace) -> int:
    """Check everything that can be checked before the model is loaded, then read, predict and write side by side."""
    _check_arguments(args)
    set_up_logs(None)
    job = _image_job(args) if args.input else _video_job(args)
    predictor = load_model(
        args.config_file, args.weights, device=args.device, overrides=args.opts,
        confidence_threshold=args.confidence_threshold,
    )  # fmt: skip
    if args.attention:
        predictor.record_attention()
    on_cpu = predictor.device.type == "cpu"
    predictor.batch_size = args.batch_size or (1 if on_cpu or job.live else 4)
    started = time.monotonic()
    num_shots, failed, interrupted = _stream(job, predictor)
    seconds = time.monotonic() - started
    logger.info("%d %s in %.1f s", num_shots, "frames" if job.video else "images", seconds)
    if args.output:
        logger.info("Results are in %s", args.output)
    if failed:
        if len(failed) == 1:
            raise UserError(f"1 of {num_shots + 1} images could not be read: {one_line(failed[0].error)}")
        named = ", ".join(shot.name for shot in failed[:5]) + (", ..." if len(failed) > 5 else "")
        raise UserError(f"{len(failed)} of {num_shots + len(failed)} images could not be read, see above: {named}")
    return INTERRUPTED if interrupted and not job.live else 0


def _check_arguments(args: argparse.Namespace) -> None:
    given = [bool(args.input), bool(args.video_input), args.webcam is not None]
    if sum(given) != 1:
        found = "several of them are given" if sum(given) else "no input"
        raise UserError(
            f"{found}: name images with --input, or one video with --video-input, or a camera with --webcam"
        )
    if not 0 <= args.confidence_threshold <= 1:
        raise UserError(f"--confidence-threshold is {args.confidence_threshold}, expected a number from 0 to 1")
    if args.batch_size is not None and args.batch_size < 1:
        raise UserError(f"--batch-size is {args.batch_size}, expected 1 or more")
    if not args.output and set(args.output_format) != {"overlay"}:
        raise UserError(f"--output-format {' '.join(args.output_format)} needs a folder; name it with --output")
    if args.attention and not (args.input and args.output):
        raise UserError("--attention needs images, named with --input, and a folder, named with --output")
    if not args.output and not has_display():
        raise UserError("there is no display to show pictures on; name a folder or file for them with --output")


def _image_job(args: argparse.Namespace) -> Job:
    paths = find_inputs(args.input)
    if not args.output:
        stems = [str(number) for number in range(len(paths))]
        return Job(
            lambda pixels: image_shots(paths, stems, pixels), len(paths), lambda _: [Window(wait=True)], window=True
        )
    target = Path(args.output).expanduser()
    file = target if is_file_name(target, IMAGE_SUFFIXES) else None
    if is_file_name(target, VIDEO_SUFFIXES):
        raise UserError(f"--output {target} is a video, but --input names images; name a folder")
    formats = set(args.output_format)
    if file and (len(formats) > 1 or "json" in formats):
        raise UserError(f"--output {target} is one file; --output-format {' '.join(formats)} needs a folder")
    pictures = output_paths(paths, args.output)
    stems = [path.stem for path in pictures]
    folder = file.parent if file else target
    _keep_inputs(paths, folder, stems, formats)

    def outputs(metadata: Any) -> Iterator[Output]:
        if "overlay" in formats:
            yield Pictures(dict(zip(stems, pictures, strict=True)))
        if "ids" in formats:
            yield Ids(folder if file else folder / "ids", file)
        if "json" in formats:
            yield CocoJson(folder, metadata)
        if args.attention:
            yield Attention(folder, metadata)

    return Job(lambda pixels: image_shots(paths, stems, pixels), len(paths), outputs)


def _keep_inputs(inputs: Sequence[Path], folder: Path, stems: Sequence[str], formats: set[str]) -> None:
    """Raise UserError where the PNGs of ``ids/`` or ``predictions/`` would replace an input."""
    folders = [folder / name for key, name in (("ids", "ids"), ("json", "predictions")) if key in formats]
    made = {(one / f"{stem}.png").resolve() for one in folders for stem in stems}
    replaced = sorted(str(path) for path in inputs if path.resolve() in made)
    if replaced:
        raise UserError(f"--output {folder} would replace the input {replaced[0]}; name another folder")


def _video_job(args: argparse.Namespace) -> Job:
    live = args.webcam is not None
    target = Path(args.output).expanduser() if args.output else None
    stem = f"camera_{args.webcam}" if live else Path(args.video_input).stem
    path, folder = _video_path(args, target, stem) if target else (None, None)
    reader = VideoReader(args.webcam if live else args.video_input)
    formats = set(args.output_format)

    def outputs(metadata: Any) -> Iterator[Output]:
        if path is None or folder is None:
            yield Window(wait=False)
            return
        if "overlay" in formats:
            yield Video(path, reader.fps, live=live)
        if "ids" in formats:
            yield Ids(folder / "ids")
        if "json" in formats:
            yield CocoJson(folder, metadata)

    return Job(
        lambda _: video_shots(reader, stem), reader.num_frames or None, outputs, video=True, live=live,
        window=target is None,
    )  # fmt: skip


def _video_path(args: argparse.Namespace, target: Path, stem: str) -> tuple[Path, Path]:
    """The video to write, and the folder of everything else."""
    if is_file_name(target, VIDEO_SUFFIXES):
        if set(args.output_format) != {"overlay"}:
            raise UserError(
                f"--output {target} is one file; --output-format {' '.join(args.output_format)} needs a folder"
            )
        path = target
    elif is_file_name(target, IMAGE_SUFFIXES):
        raise UserError(f"--output {target} is an image; name a folder or a video ({', '.join(VIDEO_SUFFIXES)})")
    else:
        path = target / f"{stem}.mp4"
    make_folder(path.parent)
    if args.video_input and path.resolve() == Path(args.video_input).expanduser().resolve():
        if path == target:
            raise UserError(f"--output {target} would replace the input; name another file")
        path = path.with_name(f"{stem}_panoptic.mp4")
    return path, path.parent


def _stream(job: Job, predictor: PanopticPredictor) -> tuple[int, list[Shot], bool]:
    """Read, predict and write; returns the number of results, the shots that failed, and whether Ctrl-C ended it."""
    waiting = 1 if job.live else 2 * predictor.batch_size
    tracker = Tracker() if job.video else None
    failed: list[Shot] = []
    num_shots = 0
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(_stop_on_interrupt())
        outputs = [stack.enter_context(contextlib.closing(one)) for one in job.outputs(predictor.metadata)]

        def write(shot: Shot) -> None:
            if tracker is not None and shot.result is not None:
                shot.result.segments = tracker.update(shot.result.ids, shot.result.segments)
            for output in outputs:
                output.write(shot)

        put = write  # a window belongs to the main thread
        if not job.window:
            writer = stack.enter_context(contextlib.closing(Background(write, waiting)))
            put = writer.put
        shots = stack.enter_context(
            contextlib.closing(Prefetch(job.shots(predictor.max_pixels), waiting, live=job.live))
        )
        # A bar that is drawn over log lines helps nobody, so it is for terminals only.
        bar = stack.enter_context(tqdm(total=job.total, unit="frame" if job.video else "image", disable=None))
        for batch in batches(shots, predictor.batch_size):
            done = _predict(batch, predictor, failed)
            try:
                for shot in done:
                    put(shot)
                    if bar.disable and not job.video:
                        logger.info("%s: %d segments", shot.name, len(shot.result.segments))
            except WindowClosed:
                break
            num_shots += len(done)
            bar.update(len(batch))
            if stop.is_set():
                break
    return num_shots, failed, stop.is_set()


def _predict(batch: list[Shot], predictor: PanopticPredictor, failed: list[Shot]) -> list[Shot]:
    """The shots that could be read, with their results; the others are reported and added to ``failed``."""
    for shot in batch:
        if shot.error is not None:
            logger.error("%s", one_line(shot.error))
            failed.append(shot)
    readable = [shot for shot in batch if shot.error is None]
    try:
        results = predictor([shot.image for shot in readable])
    except (RuntimeError, torch.cuda.OutOfMemoryError):
        logger.error("the model failed at %s", ", ".join(shot.name for shot in readable))
        raise
    for shot, result in zip(readable, results, strict=True):
        shot.result = result
    return readable


@contextlib.contextmanager
def _stop_on_interrupt() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, so that files are finished; the second one interrupts as usual."""
    stop = threading.Event()

    def stop_softly(*_: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        logger.warning("stopping after the images at hand; press Ctrl-C again to stop at once")

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGINT, stop_softly)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_cli(run, build_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
