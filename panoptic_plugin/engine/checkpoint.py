"""Detectron2's checkpointer, with files that cannot run code, saves that survive a kill, and loads that report.

What a checkpoint holds and when weights are matched by the ends of their names (``matching_heuristics``) is
Detectron2's; so either side's checkpoints load in the other.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from torch import nn

from panoptic_plugin.engine.checkpoint_file import (
    WRAPPERS,
    check_file,
    compare_sha256,
    is_array,
    load_checkpoint_file,
    load_state_dict_file,
    unwrap,
    write_atomically,
)
from panoptic_plugin.engine.checkpoint_history import (
    BEST,
    POINTER,
    newest_readable,
    remove_leftovers,
    resume_candidates,
)
from panoptic_plugin.engine.non_finite import non_finite, refuse_non_finite
from panoptic_plugin.errors import CheckpointError, UserError

__all__ = ["PluginCheckpointer", "load_state_dict_file"]

logger = logging.getLogger(__name__)

# ImageNet weights fill a backbone almost wholly; those of another network meet it in a stem at most.
PLAUSIBLE_BACKBONE_SHARE = 0.25
# Values that weights do not depend on, and that older PyTorch or Detectron2 versions do not write, or do.
INCIDENTAL = ("num_batches_tracked", "pixel_mean", "pixel_std")
MAX_LISTED = 10
CHECK_BACKBONE = (
    "Check MODEL.BACKBONE.NAME and MODEL.RESNETS.DEPTH, or convert the file with convert-pretrain-model-to-d2.py"
)


class PluginCheckpointer(DetectionCheckpointer):
    """Loads and saves a model with the rest of a training's state, as Detectron2's checkpointer does.

    Args:
        model: the network, wrapped in DistributedDataParallel or not.
        save_dir: folder of the checkpoints.
        save_to_disk: whether this process writes; by default the main process does.
        eval_only: the weights are used as they are: a missing weight or another shape is then an error. The same
            holds when a run is resumed. When training starts from weights, such tensors start at random, with a
            warning that lists them.
        checkpointables: objects with ``state_dict()`` that are saved along (optimizer, scheduler, trainer).
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        eval_only: bool = False,
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.eval_only = eval_only
        self._complete = eval_only
        self._resuming = False
        self._query: dict[str, list[str]] = {}
        self._path = ""
        self._at_hand: tuple[str, Any] | None = None  # a file whose content was read when it was checked

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a checkpoint; an empty path loads nothing.

        Args:
            path: a local file, or anything Detectron2's path manager resolves (``detectron2://``, ``https://``).
                ``?matching_heuristics=True`` at its end matches names by their ends, in every Detectron2 version;
                ``?sha256=HEX`` compares the file with that checksum. A URL without one is loaded with a warning.
            checkpointables: names of the objects to restore, by default all.

        Returns:
            What the checkpoint holds beside the weights and those objects, for example ``iteration``.

        Raises:
            CheckpointError: the file is missing, damaged or holds more than data; or the weights belong to another
                model, or are infinite or NaN; or, in ``eval_only`` and on resume, they are not complete. Or the rest of
            the training's state does not fit.
        """
        if not path:
            return super().load(path, checkpointables)
        self._path, _, query = str(path).partition("?")
        self._query = parse_qs(query)
        try:
            content = super().load(self._local_path(self._path), [])
            self._restore(content, self.checkpointables if checkpointables is None else checkpointables)
            return content
        finally:
            if hasattr(self, "_parsed_url_during_load"):  # Detectron2's main leaves it set after an error
                self._parsed_url_during_load = None

    def _restore(self, content: dict[str, Any], names: Iterable[str]) -> None:
        """Move the state of optimizer, schedule and the like out of ``content`` into the objects it belongs to."""
        for name in names:
            if name not in content:
                continue
            logger.info("Loading %s from %s", name, self._path)
            try:
                self.checkpointables[name].load_state_dict(content.pop(name))
            except UserError:
                raise
            except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as cause:
                raise CheckpointError(
                    f"the state of the training in {self._path} does not fit this one ({name}: {type(cause).__name__}: "
                    f"{cause}). Go on with the config that it was begun with; or start anew from its weights, with "
                    "MODEL.WEIGHTS in another OUTPUT_DIR"
                ) from cause

    @property
    def loaded_file(self) -> str:
        """The local file that was loaded last; "" where there is none."""
        return self.path_manager.get_local_path(self._path) if self._path else ""

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """The newest good checkpoint of ``save_dir`` with everything in it; or, without any, the weights of ``path``.

        That is the one which ``last_checkpoint`` names. Where it is lost or damaged, the newest of the others that
        can be read takes its place, with a warning; so a run never starts from scratch where it could go on.
        All processes take the file that the main process has chosen, or fail together.

        Raises:
            CheckpointError: as :meth:`load`; a run that is resumed must fit the model completely. Or there are
                checkpoints and none can be read.
        """
        if not (resume and self.has_checkpoint()):
            return super().resume_or_load(path, resume=False)
        self._complete = self._resuming = True
        try:
            return self.load(self._chosen() if "://" not in self.save_dir else self.get_checkpoint_file())
        finally:
            self._complete, self._resuming, self._at_hand = self.eval_only, False, None

    def has_checkpoint(self) -> bool:
        """Whether ``save_dir`` holds ``last_checkpoint``, or a checkpoint of a training without it."""
        if super().has_checkpoint():
            return True
        return "://" not in self.save_dir and bool(resume_candidates(Path(self.save_dir)))

    def get_checkpoint_file(self) -> str:
        """The file to resume from first; "" where there is none. It need not exist, see :meth:`resume_or_load`."""
        if "://" in self.save_dir:
            return super().get_checkpoint_file()
        candidates = resume_candidates(Path(self.save_dir))
        return str(candidates[0]) if candidates else ""

    def _chosen(self) -> str:
        """The checkpoint that the main process can read, on all processes."""
        chosen: tuple[str, str] = ("", "")
        if comm.is_main_process():
            try:
                chosen = (str(self._newest_good()), "")
            except CheckpointError as error:
                chosen = ("", str(error))
        path, fault = comm.all_gather(chosen)[0]
        if fault:
            raise CheckpointError(fault)
        self._fail_together(path)
        return path

    def _newest_good(self) -> Path:
        folder = Path(self.save_dir)
        if self.save_to_disk:
            remove_leftovers(folder)
        candidates = resume_candidates(folder)
        if not candidates:
            raise CheckpointError(
                f"{folder / POINTER} names no checkpoint, and there is none in that folder. Put back a copy, or start "
                "anew without --resume"
            )
        path, content = newest_readable(candidates, load_checkpoint_file)
        self._at_hand = (str(path), content)
        return path

    def _fail_together(self, path: str) -> None:
        faults = comm.all_gather("" if os.path.isfile(path) else f"{path} does not exist on {os.uname().nodename}")
        if any(faults):
            raise CheckpointError(
                f"{' | '.join(filter(None, faults))}. All machines must see the same OUTPUT_DIR: put it on a shared "
                "file system, or copy the checkpoint to each machine"
            )

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth`` and then note it in ``last_checkpoint``, each in one step.

        Raises:
            CheckpointError: the folder cannot be written or the disk is full; what was saved before is untouched.
            FloatingPointError: a weight or running statistic is infinite or NaN; nothing is written.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        refuse_non_finite(self.model, os.path.join(self.save_dir, f"{name}.pth"))
        if "://" in self.save_dir:  # a store behind Detectron2's path manager has its own guarantees
            super().save(name, **kwargs)
            return
        content = {"model": self.model.state_dict()}
        content.update({key: value.state_dict() for key, value in self.checkpointables.items()})
        content.update(kwargs)
        path = os.path.join(self.save_dir, f"{name}.pth")
        logger.info("Saving checkpoint to %s", path)
        write_atomically(path, lambda stream: torch.save(content, stream))
        if name != BEST:
            self.tag_last_checkpoint(os.path.basename(path))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        if "://" in self.save_dir:
            super().tag_last_checkpoint(last_filename_basename)
            return
        write_atomically(
            os.path.join(self.save_dir, POINTER), lambda stream: stream.write(last_filename_basename.encode())
        )

    def _local_path(self, path: str) -> str:
        try:
            local_path = self.path_manager.get_local_path(path)
        except Exception as cause:  # a download may fail in many ways
            raise CheckpointError(
                f"{path} cannot be fetched ({type(cause).__name__}: {cause}); check the network, or "
                "download it by hand and set MODEL.WEIGHTS to the file"
            ) from cause
        check_file(local_path)
        checksums = self._query.get("sha256", [])
        for checksum in checksums:
            compare_sha256(local_path, checksum)
        if re.match(r"https?://", path) and not checksums:
            logger.warning("%s is loaded unchecked; add ?sha256=HEX to the address to compare its checksum", path)
        return local_path

    def _load_file(self, filename: str) -> dict[str, Any]:
        at_hand, self._at_hand = self._at_hand, None
        content = at_hand[1] if at_hand and at_hand[0] == filename else load_checkpoint_file(filename)
        checkpoint = _detectron2_format(content, filename)
        if self._resuming and "trainer" in self.checkpointables and "trainer" not in checkpoint:
            raise CheckpointError(
                f"{filename} holds weights and no state of a training, so there is nothing to resume. To start from "
                "them set MODEL.WEIGHTS to the file, in another OUTPUT_DIR or without --resume"
            )
        if self._query.get("matching_heuristics") == ["True"]:
            checkpoint["matching_heuristics"] = True
        return checkpoint

    def _load_model(self, checkpoint: dict[str, Any]):
        # A model may know other layouts of its own weights, and rename them.
        adapt = getattr(self.model, "adapt_weights", None)
        if adapt is not None:
            checkpoint["model"] = adapt(checkpoint["model"])
        shapes = {key: tuple(value.shape) for key, value in checkpoint["model"].items()}
        if checkpoint.get("matching_heuristics"):
            _prefix_backbone(checkpoint, set(self.model.state_dict()))
        by_ends = checkpoint.get("matching_heuristics", False)
        try:
            incompatible = super()._load_model(checkpoint)
        # Detectron2 found several places for one name; or PyTorch cannot copy a tensor.
        except (ValueError, RuntimeError) as cause:
            raise CheckpointError(f"{self._path} does not fit the model: {cause} {CHECK_BACKBONE}") from cause
        missing = _essential(incompatible.missing_keys)
        # Where names are matched by their ends, a tensor of another shape is reported as missing.
        differing = {key: (found, wanted) for key, found, wanted in incompatible.incorrect_shapes}
        wanted_shapes = {key: tuple(value.shape) for key, value in self.model.state_dict().items()}
        for key in missing if by_ends else ():
            other = _by_end(key, shapes)
            if other is not None and other != wanted_shapes[key]:
                differing[key] = (other, wanted_shapes[key])
        missing = [key for key in missing if key not in differing]
        self._report(missing, differing, incompatible.unexpected_keys)
        if spoilt := non_finite(self.model):
            raise CheckpointError(
                f"{self._path} holds infinite or NaN weights ({_listed(spoilt)}): the training that wrote it had "
                "diverged. Use an earlier checkpoint of it, or other weights"
            )
        return incompatible

    def _report(self, missing: list[str], differing: dict[str, tuple], unexpected: list[str]) -> None:
        """Log how many weights of each part were filled; stop where that is not what can be meant."""
        filled = _filled(_essential(self.model.state_dict()), {*missing, *differing})
        logger.info(
            "Weights of %s: %s; %d missing, %d of another shape, %d unexpected",
            self._path,
            ", ".join(f"{part} {found}/{total}" for part, (found, total) in filled.items()),
            len(missing),
            len(differing),
            len(_essential(unexpected)),
        )
        shapes = [f"{key} {found} instead of {wanted}" for key, (found, wanted) in sorted(differing.items())]
        backbone_found, backbone_total = filled.get("backbone", (0, 0))
        if not any(found for found, _ in filled.values()) or (
            backbone_total and backbone_found < PLAUSIBLE_BACKBONE_SHARE * backbone_total
        ):
            raise CheckpointError(
                f"{self._path} fills {backbone_found} of {backbone_total} weights of the backbone, so it belongs to "
                f"another network. Not in the file: {_listed(missing)}; of another shape: {_listed(shapes)}; of no use "
                f"in the model: {_listed(unexpected)}. {CHECK_BACKBONE}"
            )
        required = getattr(self.model, "must_be_loaded", ())
        lacking = [key for key in (*missing, *differing) if key.startswith(tuple(required))] if required else []
        if lacking:
            raise CheckpointError(
                f"{self._path} lacks {len(lacking)} weights that do not train and must be loaded, for example "
                f"{_listed(lacking)}. Name the checkpoint of a box model with the same backbone and number of classes "
                "in MODEL.DETR.FROZEN_WEIGHTS"
            )
        if self._complete and (missing or differing):
            raise CheckpointError(
                f"{self._path} does not fit the model. Of another shape (in the file instead of in the model): "
                f"{_listed(shapes)}; not in the file: {_listed(missing)}. Use the config that the weights were trained "
                "with; class predictors differ where MODEL.SEM_SEG_HEAD.NUM_CLASSES does"
            )
        if differing:
            logger.warning("Of another shape in %s, and left as initialised: %s", self._path, _listed(shapes))


def _detectron2_format(content: Any, path: str) -> dict[str, Any]:
    """What a file holds as ``{"model": weights, ...}``, with the rules of Detectron2's checkpointer for each kind.

    Raises:
        CheckpointError: there are no weights in it.
    """
    content = content if isinstance(content, Mapping) else {}
    if path.endswith(".pkl") and not any(name in content for name in WRAPPERS):  # Caffe2 and Detectron1
        blobs = content.get("blobs", content)
        weights = {key: value for key, value in blobs.items() if not str(key).endswith("_momentum")}
        checkpoint: dict[str, Any] = {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}
    elif "model_state" in content:  # pycls
        weights = {key: value for key, value in content["model_state"].items() if not key.endswith(INCIDENTAL[0])}
        checkpoint = {"model": weights, "__author__": "pycls", "matching_heuristics": True}
    else:
        others = content if "model" in content else {}
        checkpoint = {**others, "model": unwrap(content)}
    if not checkpoint["model"]:
        raise CheckpointError(
            f"{path} ({Path(path).stat().st_size:,} bytes) holds no weights, expected a mapping from "
            "names to tensors or arrays; set MODEL.WEIGHTS to another file"
        )
    arrays = {key: torch.as_tensor(value) for key, value in checkpoint["model"].items() if is_array(value)}
    prefixed = all(key.startswith("module.") for key in arrays)  # saved from within DistributedDataParallel
    checkpoint["model"] = {key.removeprefix("module.") if prefixed else key: value for key, value in arrays.items()}
    return checkpoint


def _prefix_backbone(checkpoint: dict[str, Any], model_keys: set[str]) -> None:
    """Name the weights of a backbone alone as in the model, in place; matching by ends takes seconds for HRNet."""
    renamed = {f"backbone.{key}": value for key, value in checkpoint["model"].items()}
    if renamed.keys() <= model_keys:
        checkpoint["model"] = renamed
        checkpoint["matching_heuristics"] = False


def _essential(keys: Iterable[str]) -> list[str]:
    return [key for key in keys if not key.endswith(INCIDENTAL)]


def _filled(keys: list[str], lacking: set[str]) -> dict[str, tuple[int, int]]:
    """Part of the model (the first name of its keys) -> how many of its weights are filled, and how many it has."""
    counts: dict[str, tuple[int, int]] = {}
    for key in keys:
        part = key.partition(".")[0]
        found, total = counts.get(part, (0, 0))
        counts[part] = (found + (key not in lacking), total + 1)
    return counts


def _by_end(key: str, shapes: dict[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    """The shape under the longest end of ``key`` that ``shapes`` knows, as Detectron2 matches names."""
    parts = key.split(".")
    ends = (".".join(parts[start:]) for start in range(len(parts)))
    return next((shapes[end] for end in ends if end in shapes), None)


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - MAX_LISTED} more" if len(items) > MAX_LISTED else ""
    return (", ".join(items[:MAX_LISTED]) + more) or "none"
