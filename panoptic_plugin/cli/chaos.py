"""Disturb a small training for minutes and show that nothing is lost: ``tools/chaos.py``, ``panoptic chaos``."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from panoptic_plugin.cli.run import run_cli
from panoptic_plugin.data.synthesize import SynthesisOptions, synthesize
from panoptic_plugin.engine.chaos import Disturbance, damage_newest, digest, plan, plural
from panoptic_plugin.engine.checkpoint_file import load_checkpoint_file
from panoptic_plugin.engine.checkpoint_history import newest_readable, read_pointer, resume_candidates
from panoptic_plugin.engine.manifest import FILE_NAME as MANIFEST
from panoptic_plugin.engine.manifest import read_starts
from panoptic_plugin.errors import ConfigError, UserError

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "quick" / "panoptic_deeplab_cityscapes.yaml"
PERIOD = 2  # iterations between two checkpoints
MARKER = "PANOPTIC_CHAOS"
TIMEOUT = 40  # seconds that one process of the training waits for another
PATIENCE = TIMEOUT + 25.0  # seconds a disturbed job may take to end
POLL_SECONDS = 0.01
KEPT = 5  # checkpoints of a disturbed training, so that hours of it do not fill a disk
HEAD = {
    "IN_FEATURES": "['res2','res3','res4','res5']",
    "PROJECT_FEATURES": "['res2','res3','res4']",
    "PROJECT_CHANNELS": "[8,16,32]",
    "ASPP_CHANNELS": "32",
    "CONVS_DIM": "32",
    "HEAD_CHANNELS": "32",
}
# Everything random that a training has, and every kind of state, in a network of 0.8 M weights.
SETTINGS = {
    "MODEL.BACKBONE.NAME": "d2_hrnet",
    "MODEL.RESNETS.DEPTH": "8",
    "MODEL.RESNETS.OUT_FEATURES": "['res2','res3','res4','res5']",
    "MODEL.HRNET.MODULES": "[1,1,1]",
    "MODEL.HRNET.BLOCKS": "1",
    **{f"MODEL.{head}.{key}": value for head in ("SEM_SEG_HEAD", "INS_EMBED_HEAD") for key, value in HEAD.items()},
    "INPUT.MIN_SIZE_TRAIN": "(64,72,80)",
    "INPUT.MAX_SIZE_TRAIN": "200",
    "INPUT.CROP.SIZE": "(64,96)",
    "INPUT.COLOR_JITTER": "True",
    "INPUT.COPY_PASTE_PROB": "0.5",
    "MODEL.EMA.ENABLED": "True",
    "SOLVER.IMS_PER_BATCH": "2",
    "SOLVER.CHECKPOINT_PERIOD": str(PERIOD),
    "SOLVER.WARMUP_ITERS": "10",
    "DATASETS.TEST": "()",
    "DISTRIBUTED.TIMEOUT": str(TIMEOUT),
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Train a small network on generated scenes, kill it at random moments, damage its newest "
        "checkpoint, resume, and so on for some minutes; then compare with a training that nobody disturbed. "
        "The exit code is 0 only where all weights, averages and optimizer states are equal, bit by bit.",
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="of disturbance (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the disturbances (default: %(default)s)")
    parser.add_argument("--processes", type=int, choices=(1, 2), default=1, help="of the training (default: 1)")
    parser.add_argument("--workers", type=int, default=2, help="of the data loader of each process (default: 2)")
    parser.add_argument("--iterations", type=int, default=60, help="of one training (default: %(default)s)")
    parser.add_argument("--output", default="chaos", help="folder of everything it makes (default: %(default)s)")
    return parser


class Failure(UserError):
    """A disturbed training did not go on as it should."""


class Soak:
    """One undisturbed training, then disturbed ones until the time is over.

    Attributes:
        events: what happened: {"seconds", "training", "event", ...}.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.folder = Path(args.output).resolve()
        self.events: list[dict[str, Any]] = []
        self.training = 0
        self.began = time.monotonic()

    def note(self, event: str, **details: Any) -> None:
        seconds = round(time.monotonic() - self.began, 3)
        self.events.append({"seconds": seconds, "training": self.training, "event": event, **details})
        if event != "saved":
            _say(f"{seconds:7.1f} s  {event} {', '.join(str(value) for value in details.values())}")

    def start(self, out: Path) -> subprocess.Popen:
        """Start the training in ``out``, or go on with it."""
        torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(self.args.processes), "-m"]
        settings = {**SETTINGS, "SOLVER.MAX_ITER": self.args.iterations, "DATALOADER.NUM_WORKERS": self.args.workers,
                    "SEED": self.args.seed, "OUTPUT_DIR": out}  # fmt: skip
        words = [word for pair in settings.items() for word in map(str, pair)]
        environment = {"DETECTRON2_DATASETS": str(self.folder / "scenes"), "OMP_NUM_THREADS": "1",
                       "PYTHONUNBUFFERED": "1", MARKER: str(self.folder)}  # fmt: skip
        with (out / "console.txt").open("ab") as console:
            return subprocess.Popen(
                [sys.executable, "-m", *(torchrun if self.args.processes > 1 else []), "panoptic_plugin.cli.main",
                 "train", "--config-file", str(CONFIG), "--num-gpus", "0", "--resume", *words],
                stdout=console, stderr=console, env={**os.environ, **environment},
            )  # fmt: skip

    def undisturbed(self) -> str:
        """Train without disturbance; returns the digest of what came out."""
        out = self.folder / "undisturbed"
        out.mkdir(parents=True)
        if code := self.start(out).wait():
            raise Failure(f"the undisturbed training ended with {code}:\n{tail(out)}")
        for path in out.glob("model_0*.pth"):
            path.unlink()
        return digest(out / "model_final.pth")

    def disturbed(self, disturbances: Iterator[Disturbance], deadline: float) -> str:
        """Train to the end with disturbances until ``deadline``; returns the digest of what came out."""
        self.training += 1
        out = self.folder / f"disturbed_{self.training}"
        out.mkdir()
        while True:
            starts, safe = len(read_starts(out / MANIFEST)), safe_iterations(out)
            job = self.start(out)
            self.note("start", iteration=safe)
            disturbance = next(disturbances) if time.monotonic() < deadline else None
            over = self._watch(job, out, disturbance)
            for began in read_starts(out / MANIFEST)[starts:]:
                if began["start_iteration"] != safe:
                    raise Failure(f"it went on from iteration {began['start_iteration']}, where {safe} were safe")
            if over:
                break
            _prune(out)
            if disturbance and disturbance.damage:
                done = damage_newest(out, disturbance.damage, disturbance.seed)
                if done:
                    self.note("damage", what=done, kind=disturbance.damage)
        self.note("end", iteration=self.args.iterations)
        found = digest(out / "model_final.pth")
        for path in out.glob("model_0*.pth"):
            path.unlink()
        return found

    def _watch(self, job: subprocess.Popen, out: Path, disturbance: Disturbance | None) -> bool:
        """Wait until the job ends by itself, or disturb it; returns whether it came to its end.

        Raises:
            Failure: it ended with an error, did not end after the disturbance, or left processes.
        """
        pointer, num_saves, last_save, between = read_pointer(out), 0, time.monotonic(), 1.0
        due: float | None = None  # when to disturb it, once it has saved often enough
        while job.poll() is None:
            now = time.monotonic()
            if (current := read_pointer(out)) != pointer:
                pointer, num_saves = current, num_saves + 1
                last_save, between = now, now - last_save if num_saves > 1 else between
                self.note("saved", iteration=_iteration(current, self.args.iterations))
            if disturbance and due is None and num_saves >= disturbance.num_saves:
                due = last_save + disturbance.delay * (between if disturbance.num_saves else 1.0)
            if disturbance and due is not None and now >= due:
                return self._disturb(job, out, disturbance)
            time.sleep(POLL_SECONDS)
        if job.returncode:
            raise Failure(f"the training ended with {job.returncode} by itself:\n{tail(out)}")
        self._all_gone(out)
        return True

    def _disturb(self, job: subprocess.Popen, out: Path, disturbance: Disturbance) -> bool:
        self.note("disturb", how=disturbance.end, after=read_pointer(out))
        victims = _victims(job, disturbance)
        for process in victims:
            _send(process, signal.SIGTERM if disturbance.end == "terminate" else signal.SIGKILL)
        try:
            job.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            _kill_all(self.folder)
            raise Failure(f"the training still ran {PATIENCE:.0f} s after '{disturbance.end}':\n{tail(out)}") from None
        self._all_gone(out)
        return job.returncode == 0  # it had come to its end before

    def _all_gone(self, out: Path) -> None:
        limit = time.monotonic() + PATIENCE
        while left := processes_of(self.folder):
            if time.monotonic() > limit:
                _kill_all(self.folder)
                raise Failure(f"processes were left over: {left}\n{tail(out)}")
            time.sleep(0.05)


def run(args: argparse.Namespace) -> int:
    """Soak, report, draw; returns 0 where all is equal, 1 where not."""
    soak = Soak(args)
    # What the training says of its files is in its console.txt; here they are looked at a hundred times a second.
    logging.getLogger("panoptic_plugin").setLevel(logging.ERROR)
    _prepare(soak.folder)
    expected, found, fault = "", [], ""
    try:
        expected = soak.undisturbed()
        _say(f"undisturbed: {args.iterations} iterations, {expected[:16]}")
        soak.began = time.monotonic()
        deadline = soak.began + 60 * args.minutes
        max_saves = max(1, args.iterations // PERIOD // 6)
        disturbances = plan(args.seed, processes=args.processes, workers=args.workers, max_saves=max_saves)
        while time.monotonic() < deadline:
            found.append(soak.disturbed(disturbances, deadline))
            _say(f"training {soak.training}: {'equal' if found[-1] == expected else 'NOT EQUAL: ' + found[-1][:16]}")
    except UserError as error:
        fault = str(error)
    report = summarize(soak, expected, found, fault)
    (soak.folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    from panoptic_plugin.cli.chaos_figure import draw  # matplotlib takes its time

    draw(report, soak.folder / "chaos.png")
    _say(f"{report['summary']}\n{soak.folder / 'report.json'}, {soak.folder / 'chaos.png'}")
    if fault:
        _say(fault)
    return 0 if report["equal"] else 1


def summarize(soak: Soak, expected: str, found: Sequence[str], fault: str) -> dict[str, Any]:
    """What the report holds; ``equal`` only where every training came to the undisturbed one's end."""
    ends = [event["how"] for event in soak.events if event["event"] == "disturb"]
    damages = [event["kind"] for event in soak.events if event["event"] == "damage"]
    starts = [event["event"] for event in soak.events].count("start")
    equal = bool(found) and not fault and all(one == expected for one in found)
    counts = {
        "trainings": len(found),
        "kills": len(ends) - ends.count("terminate"),
        "sigterms": ends.count("terminate"),
        "damages": len(damages),
        "resumes": starts - soak.training,
        "equal": sum(one == expected for one in found),
    }
    return {
        "equal": equal,
        "summary": _summary(counts, soak.args.iterations, fault),
        "counts": counts,
        "minutes": round((time.monotonic() - soak.began) / 60, 1),
        "arguments": vars(soak.args),
        "disturbances": {end: ends.count(end) for end in sorted(set(ends))},
        "damages": {kind: damages.count(kind) for kind in sorted(set(damages))},
        "digest_undisturbed": expected,
        "digests": list(found),
        "fault": fault,
        "events": soak.events,
    }


def _summary(counts: dict[str, int], iterations: int, fault: str) -> str:
    what = (
        f"{plural(counts['kills'], 'kill')}, {plural(counts['sigterms'], 'SIGTERM')}, "
        f"{plural(counts['damages'], 'damaged file')}, {plural(counts['resumes'], 'resume')}"
    )
    trainings = f"{plural(counts['trainings'], 'training')} of {iterations} iterations"
    end = f"{counts['equal']} of {counts['trainings']} ended with exactly the undisturbed one's weights"
    return f"{what} in {trainings}: {end}" + (f"; {fault.partition(chr(10))[0]}" if fault else "")


def safe_iterations(out: Path) -> int:
    """How many iterations the newest checkpoint of ``out`` that can be read stands for; 0 where there is none."""
    candidates = resume_candidates(out)
    return newest_readable(candidates, load_checkpoint_file)[1]["iteration"] + 1 if candidates else 0


def _prune(out: Path) -> None:
    periodic = [path for path in resume_candidates(out) if path.name.startswith("model_0")]
    for path in sorted(periodic, reverse=True)[KEPT:]:
        path.unlink(missing_ok=True)


def processes_of(folder: Path) -> list[int]:
    """All living processes of the trainings in ``folder``, whoever their parent is."""
    psutil = _psutil()
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARKER) == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def _victims(job: subprocess.Popen, disturbance: Disturbance) -> list[int]:
    psutil = _psutil()
    try:
        started = psutil.Process(job.pid)
        ranks = [child for child in started.children() if "RANK" in child.environ()] or [started]
        workers = [child for rank in ranks for child in rank.children()]
        everything = [started, *started.children(recursive=True)]
    except psutil.Error:  # it ends just now
        return []
    pick = disturbance.seed
    if disturbance.end == "terminate":
        return [job.pid]
    if disturbance.end == "kill one":
        return [ranks[pick % len(ranks)].pid]
    if disturbance.end == "kill worker" and workers:
        return [workers[pick % len(workers)].pid]
    return [process.pid for process in everything]


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _kill_all(folder: Path) -> None:
    for pid in processes_of(folder):
        _send(pid, signal.SIGKILL)


def _psutil() -> Any:
    try:
        import psutil
    except ImportError:
        raise ConfigError("this needs psutil, to find the processes of a training: pip install psutil") from None
    return psutil


def _prepare(folder: Path) -> None:
    if not CONFIG.is_file():
        raise ConfigError(f"{CONFIG} does not exist; run this from a clone")
    _psutil()
    if folder.exists() and any(folder.iterdir()) and not (folder / "scenes").is_dir():
        raise ConfigError(f"--output {folder} is not empty and not of an earlier soak; name another folder")
    shutil.rmtree(folder, ignore_errors=True)
    options = SynthesisOptions("cityscapes", 6, 1, 64, 128, odd_sizes=False)
    synthesize(folder / "scenes", options, num_workers=1)


def _iteration(pointer: str, last: int) -> int:
    digits = "".join(filter(str.isdigit, pointer))
    return int(digits) + 1 if digits else last


def tail(out: Path, num_lines: int = 40) -> str:
    """The end of what the training in ``out`` has printed."""
    lines = (out / "console.txt").read_text(errors="replace").splitlines()
    return "\n".join(lines[-num_lines:])


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0 only where nothing was lost."""
    return run_cli(run, build_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
