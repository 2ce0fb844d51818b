"""From edges to formulas: the function library, the affine fit, the choice, and the formula."""
