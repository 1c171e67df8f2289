"""What an executor runs."""
