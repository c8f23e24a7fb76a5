"""Outputs of a network on disk, computed once: what post-processing starts from."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from panoptic_plugin.data.loader import build_test_loader
from panoptic_plugin.errors import DatasetError
from panoptic_plugin.files import read_json, replace_file

logger = logging.getLogger(__name__)

MANIFEST = "outputs.json"


class Output(NamedTuple):
    """One image's outputs at the padded size of the network's input, as ``predict`` of a model gives them.

    Attributes:
        logits: float32 (C, h, w).
        heatmap: float32 (1, H, W).
        offsets: float32 (2, H, W).
        image_size: (height, width) without padding.
        sample: ``image_id``, and ``height`` and ``width`` of the result.
    """

    logits: torch.Tensor
    heatmap: torch.Tensor
    offsets: torch.Tensor
    image_size: tuple[int, int]
    sample: dict[str, Any]


class SavedOutputs:
    """The outputs of one network for one dataset.

    Args:
        folder: holds a file an image, and a manifest that is written last.
        identity: of network and dataset; files of another one are replaced.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self._identity = json.loads(json.dumps(identity))

    def is_complete(self) -> bool:
        """Whether the outputs of this network and dataset are all there."""
        try:
            content = read_json(self.folder / MANIFEST, what="saved outputs")
        except DatasetError:
            return False
        whole = content.get("identity") == self._identity
        return whole and all((self.folder / name).is_file() for name in content["files"])

    @torch.no_grad()
    def fill(self, cfg: Any, model: Any, dataset_name: str) -> None:
        """Run the network over a dataset; model in evaluation mode."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / MANIFEST).unlink(missing_ok=True)
        names: list[str] = []
        for batch in build_test_loader(cfg, dataset_name):
            images = model.images(batch)
            outputs = model.predict(images.tensor, enlarge_logits=False)
            for sample, size, *maps in zip(batch, images.image_sizes, *outputs, strict=True):
                names.append(f"{len(names):06d}.npz")
                self._write(names[-1], sample, size, maps)
        replace_file(self.folder / MANIFEST, json.dumps({"identity": self._identity, "files": names}) + "\n")
        logger.info("Outputs of %d images saved in %s", len(names), self.folder)

    def _write(self, name: str, sample: Mapping[str, Any], size: Any, maps: list[torch.Tensor]) -> None:
        logits, heatmap, offsets = (one.float().cpu().numpy() for one in maps)
        about = {"image_id": sample["image_id"], "height": sample["height"], "width": sample["width"],
                 "image_size": [int(side) for side in size]}  # fmt: skip
        np.savez(self.folder / name, logits=logits, heatmap=heatmap, offsets=offsets, about=np.array(json.dumps(about)))

    def __iter__(self) -> Iterator[Output]:
        for name in read_json(self.folder / MANIFEST, what="saved outputs")["files"]:
            with np.load(self.folder / name, allow_pickle=False) as content:
                maps = [torch.from_numpy(content[key]) for key in ("logits", "heatmap", "offsets")]
                about = json.loads(str(content["about"]))
            height, width = about.pop("image_size")
            yield Output(maps[0], maps[1], maps[2], (height, width), about)
