"""DeepSeek-V3's names on disk, and the files that hold them."""
