"""What may be said of the tables: estimates with intervals, verdicts that hold together, and courses of heads."""
