"""Converters between panoptic formats, one a file.

To COCO panoptic: ``coco_instances``, ``labelme``, ``cvat``, ``cityscapes``, ``two_channel``. From it:
``to_instances``, ``to_semantic``, ``two_channel``. What they share: ``panoptic_set`` reads and checks, ``masks`` and
``layers`` turn outlines into a label map, ``staging`` writes, ``report`` says what was read, written and lost.
"""
