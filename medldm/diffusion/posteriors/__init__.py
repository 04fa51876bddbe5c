"""Posteriors: denoisers that know measurements. An open interface: one file per method."""
