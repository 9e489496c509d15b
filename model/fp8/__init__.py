"""Blockwise FP8: quantisation, linear layers, and the kernel of Hopper chips."""
