"""What is on disk: identities, run folders, files that appear whole or not at all."""
