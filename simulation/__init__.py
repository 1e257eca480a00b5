"""A whole consortium on one machine, running the same apps as the real one."""
