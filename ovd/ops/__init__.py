"""torchvision-backed replacements for mmcv's compiled operators."""
