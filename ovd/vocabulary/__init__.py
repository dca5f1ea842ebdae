"""Class lists, splits and prompts: the one place that maps names, ids and labels."""
