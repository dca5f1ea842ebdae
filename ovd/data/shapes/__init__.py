"""The embedded benchmark: rendered scenes of patterned, coloured shapes, annotated as COCO and LVIS are."""
