"""Jobs: what is bought. Specification, data order, segments, the runner, and local execution."""
