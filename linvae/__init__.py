"""linvae."""
