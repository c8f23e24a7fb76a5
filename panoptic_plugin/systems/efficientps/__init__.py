"""EfficientPS (https://arxiv.org/abs/2004.02307) with the instance head of SOLOv2 (https://arxiv.org/abs/2003.10152).

Reading order: semantic_head, solov2_targets, solov2_head, solov2_losses, solov2_masks, meta_arch.
"""
