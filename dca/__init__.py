"""Dual cross-attention (StageInteractor, ICCV 2023): doubles the cross-attention of a DETR decoder layer."""
