"""Artefacts on disk: manifests, sharded region stores, class heads."""
