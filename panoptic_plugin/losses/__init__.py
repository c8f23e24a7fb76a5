"""Losses as pure functions of tensors, one a file. None of them makes the host wait for the device."""
