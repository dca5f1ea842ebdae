"""Detectors, RoI heads, classifiers and losses."""
