"""One loop over the turns, and what it needs: stages, precision, optimizers, averages, processes."""
