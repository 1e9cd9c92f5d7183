"""Diffusion models of diffusers' layout: finding, checking, loading and sampling them."""
