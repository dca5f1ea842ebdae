"""Checkpoints from one key layout to another: ResNets and two-stage detectors, with a report and nothing lost silently.

Every layout is a table of names (:mod:`~ovd.engine.conversion.layouts`) beside this project's own, so any layout
converts to any other; :func:`~ovd.engine.conversion.files.convert_checkpoint` does it for files.
"""
