"""The critic: critique format, meta-check, reward, planted flaws and calibration.

Left out: training and sampling, which live in `pipelines/`. Nothing here imports torch.
"""
