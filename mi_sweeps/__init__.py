"""mi-sweeps: sweeps that show how circuits form and change during training."""

__version__ = "0.1.0"
