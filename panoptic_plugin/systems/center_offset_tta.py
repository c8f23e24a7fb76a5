"""Test-time augmentation by averaged probabilities, center heatmaps and offsets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from panoptic_plugin.postprocessing.resize import offsets_to_output_size, to_output_size
from panoptic_plugin.postprocessing.semantic import SemanticLogits
from panoptic_plugin.systems.base import Batch, output_size, size_ratio
from panoptic_plugin.systems.tta import Maps, TestTimeAugmentation, logits_of_probabilities


class CenterOffsetTTA(TestTimeAugmentation):
    """Maps of an image: ``semantic`` probabilities (C, H, W), ``center`` (1, H, W), ``offset`` (2, H, W) as (dy, dx).

    Offsets are scaled from the pixels of a view to those of the result; mirroring an image turns dx around.
    """

    model: Any

    @property
    def return_logits(self) -> bool:
        """The model's; evaluation switches it."""
        return self.model.return_logits

    @return_logits.setter
    def return_logits(self, value: bool) -> None:
        self.model.return_logits = value

    def images(self, batch: Batch) -> Any:
        """As the model's."""
        return self.model.images(batch)

    def maps(self, batched_inputs: Batch) -> list[Maps]:
        images = self.model.images(batched_inputs)
        predicted = self.model.predict(images.tensor)
        found = []
        for logits, heatmap, offsets, image_size, sample in zip(
            *predicted, images.image_sizes, batched_inputs, strict=True
        ):
            size = output_size(sample, image_size)
            found.append(
                {
                    "semantic": to_output_size(logits.float(), image_size, size).softmax(dim=0),
                    # Copies, because at the same size they are views of the batch.
                    "center": _copied(to_output_size(heatmap.float(), image_size, size)),
                    "offset": _copied(offsets_to_output_size(offsets.float(), image_size, size)),
                }
            )
        return found

    def mirror(self, maps: Maps) -> Maps:
        mirrored = super().mirror(maps)
        mirrored["offset"][1].neg_()
        return mirrored

    def result(self, maps: Maps, sample: Mapping[str, Any]) -> dict[str, Any]:
        source = SemanticLogits(logits_of_probabilities(maps["semantic"]))
        # As many pixels as the network input of the image as it came: the averages are of views of several sizes.
        scale = size_ratio(tuple(maps["center"].shape[-2:]), tuple(sample["image"].shape[-2:]))
        return self.model.result_of_maps(source, maps["center"], maps["offset"], scale=scale)


def _copied(values: torch.Tensor) -> torch.Tensor:
    return values.clone(memory_format=torch.contiguous_format)
