"""Annotation files, datasets, transforms, and the embedded benchmark."""
