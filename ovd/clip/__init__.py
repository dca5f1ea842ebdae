"""CLIP text and image towers, crops, region and text encoders."""
