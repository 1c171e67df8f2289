"""Tables of runs, and what is drawn from them: curves, heatmaps, dynamics, a report. Never imports torch."""
