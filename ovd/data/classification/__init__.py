"""Labelled pictures and boxes for classification: folders, csv lists, annotation files, and the few-shot benchmarks."""
