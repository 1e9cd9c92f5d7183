"""The denoisers of a sweep: their pictures, network, training and synthetic sets."""
