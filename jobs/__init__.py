"""The jobs that an executor runs."""
