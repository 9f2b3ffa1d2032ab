"""How fast `umldisk build` is: workloads, their archives, the runs and their tables."""
