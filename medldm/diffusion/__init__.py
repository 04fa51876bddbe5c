"""Diffusion: processes, denoisers, conditions and samplers."""
