"""Cuts a GPU into MIG slices and runs one Triton Inference Server per slice."""
