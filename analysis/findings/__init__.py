"""What was found, as sentences with their evidence: each answers one question and takes its words from inference."""
