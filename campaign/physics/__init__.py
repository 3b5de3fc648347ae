"""Pure functions: the only home of equations. No files, clocks, globals or schedulers."""
