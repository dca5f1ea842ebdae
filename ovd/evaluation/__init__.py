"""Metrics for COCO, LVIS and proposals, split into base, novel and all; reports."""
