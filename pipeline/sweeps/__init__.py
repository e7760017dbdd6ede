"""Builds of points by DVC: one after the other in the repository, or side by side under a launcher of Hydra."""
