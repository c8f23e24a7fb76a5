"""From network outputs to panoptic ids: pure functions of tensors, on any device."""
