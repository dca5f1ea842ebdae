"""Evaluation of classes that are added to a detector: by name, by k boxes, or by both, over shots and seeds."""
