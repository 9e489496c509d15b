"""Checkpoints on disk: DeepSeek-V3's names, the files that hold them, and their FP8 layout."""
