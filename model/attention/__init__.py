"""Multi-head latent attention, its cache, and its sparse form."""
