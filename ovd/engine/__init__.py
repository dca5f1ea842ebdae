"""Configs, hooks, launch and checkpoint loading."""
