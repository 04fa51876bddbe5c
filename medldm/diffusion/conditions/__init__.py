"""What a sample is conditioned on. An open interface: one file per kind of condition."""
