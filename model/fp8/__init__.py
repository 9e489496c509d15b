"""Blockwise FP8: quantisation, linear layers, kernels."""
