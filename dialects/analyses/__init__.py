"""What follows from the IR alone: work, workloads, the runs of commands.  Passes and backends use these."""
