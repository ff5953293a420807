"""Training steps: `fit` on arrays, how steps execute, and gradients of rows."""
