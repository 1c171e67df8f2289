"""Files and folders on disk: run folders and their status, hashes, and files that appear whole or not at all."""
