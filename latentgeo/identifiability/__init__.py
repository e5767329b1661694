"""Which quantities survive a change of latent coordinates."""
