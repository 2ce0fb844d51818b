"""Second-order training: Levenberg-Marquardt on many starts at once, with grids that follow."""
