"""Learned prompts (DetPro, Du et al. 2022): a context of a few vectors in front of every class name.

    pairs     which regions are trained on, with which label: index records on disk
    batches   the pairs' embeddings from the region stores, shuffled, in bounded memory
    tower     CLIP's frozen text tower over sentences with vectors in place of words
    losses    foreground and the seven ways to treat background
    settings  the `prompts` section of a config
    learner   the training of one context
    context   the learned vectors and their file; class heads of contexts
"""
