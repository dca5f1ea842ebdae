"""The embedded benchmark: rendered scenes of patterned, coloured shapes, with annotations as COCO and LVIS have them."""
