"""What each command does. Only what a command needs is imported, so that help and status are quick."""
