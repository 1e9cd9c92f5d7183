"""Audits of diffusion models for memorized, spurious and generalized samples (arXiv 2505.21777)."""
