"""Whether runs tell the same story: agreement of seeds, roles of heads, two corruptions, stability of members."""
