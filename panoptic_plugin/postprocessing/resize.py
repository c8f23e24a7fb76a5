"""Network outputs from the padded network input to the size of the result."""

from __future__ import annotations

import torch
from detectron2.modeling.postprocessing import sem_seg_postprocess


def to_output_size(result: torch.Tensor, image_size: tuple[int, int], output_size: tuple[int, int]) -> torch.Tensor:
    """Cut the padding off and resize bilinearly.

    Args:
        result: float (C, H, W), at least as large as ``image_size``.
        image_size: (height, width) of the network input without padding.
        output_size: (height, width) wanted.

    Returns:
        float (C, *output_size); a view of ``result`` where the sizes are equal.
    """
    if tuple(image_size) == tuple(output_size):
        return result[:, : image_size[0], : image_size[1]]
    return sem_seg_postprocess(result, image_size, *output_size)


def offsets_to_output_size(
    offsets: torch.Tensor, image_size: tuple[int, int], output_size: tuple[int, int]
) -> torch.Tensor:
    """As :func:`to_output_size`, for offsets (2, H, W) in pixels: their values are scaled with the image.

    Detectron2 resizes the map and leaves its values in pixels of the network input.
    """
    resized = to_output_size(offsets, image_size, output_size)
    if tuple(image_size) == tuple(output_size):
        return resized
    scale = [output_size[axis] / image_size[axis] for axis in (0, 1)]
    return resized * resized.new_tensor(scale).view(2, 1, 1)
