"""Who carries the units: this process, or a Ray cluster. Both do `work.unit.run` and give the same bytes."""
