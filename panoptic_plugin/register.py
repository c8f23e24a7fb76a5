"""THE list of imports that fill Detectron2's registries, our own, and the dataset catalog."""

import panoptic_plugin.backbones.hrnet
import panoptic_plugin.backbones.xception
import panoptic_plugin.data.datasets.builtin
import panoptic_plugin.data.targets
import panoptic_plugin.heads.deeplab_v3_plus
import panoptic_plugin.systems.panoptic_deeplab  # noqa: F401  META_ARCH, SEM_SEG_HEADS, INS_EMBED_BRANCHES
