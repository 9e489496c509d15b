"""Multi-head latent attention: positions, masks, the cache, and V3.2's sparse form."""
