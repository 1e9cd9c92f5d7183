"""The circle of Sec. 4.1 and App. A: networks at three sizes, energies, clusters, exact minima."""
