"""THE list of imports that fill Detectron2's registries, our own, and the dataset catalog."""

# ruff: noqa: F401
import panoptic_plugin.backbones.efficientnet  # BACKBONE: build_timm_backbone
import panoptic_plugin.backbones.hrnet  # BACKBONE: d2_hrnet
import panoptic_plugin.backbones.two_way_fpn  # BACKBONE: build_timm_two_way_fpn_backbone
import panoptic_plugin.backbones.xception  # BACKBONE: d2_xception_65
import panoptic_plugin.data.datasets.builtin  # DatasetCatalog: cityscapes_fine_*, coco_2017_*_panoptic
import panoptic_plugin.data.targets  # TARGET_GENERATOR: panoptic_deeplab, semantic
import panoptic_plugin.data.targets_detr  # TARGET_GENERATOR: detr
import panoptic_plugin.data.targets_instances  # TARGET_GENERATOR: efficientps
import panoptic_plugin.heads.deeplab_v3_plus  # SEM_SEG_HEADS: PluginDeepLabV3PlusHead
import panoptic_plugin.heads.ocr  # SEM_SEG_HEADS: PluginHRNetOCRHead
import panoptic_plugin.systems.detr  # META_ARCH, BACKBONE: build_detr_resnet_backbone
import panoptic_plugin.systems.efficientps.meta_arch  # META_ARCH: PluginEfficientPS
import panoptic_plugin.systems.efficientps.semantic_head  # SEM_SEG_HEADS: EfficientPSSemSegHead
import panoptic_plugin.systems.joint.deeplab_branch  # SEMANTIC_BRANCH: DeepLabSemanticBranch
import panoptic_plugin.systems.joint.embedder  # SEMANTIC_EMBEDDER: thing_prob, all_prob, feature
import panoptic_plugin.systems.joint.frozen_branch  # SEMANTIC_BRANCH: FrozenModelBranch
import panoptic_plugin.systems.joint.meta_arch  # META_ARCH: PluginJointPanoptic
import panoptic_plugin.systems.joint.ocr_branch  # SEMANTIC_BRANCH: MscaleOCRBranch
import panoptic_plugin.systems.joint.tta  # TTA: PluginJointPanopticWithTTA
import panoptic_plugin.systems.panoptic_deeplab  # META_ARCH, SEM_SEG_HEADS, INS_EMBED_BRANCHES, TTA
import panoptic_plugin.systems.tta  # TTA: SemanticSegmentorWithTTA
