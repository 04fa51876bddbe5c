"""Samplers. An open interface: one file per solver."""
