"""medldm: 3-D latent diffusion for medical images."""
