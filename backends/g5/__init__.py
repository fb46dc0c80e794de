"""Command streams in time: every command on its engine, with waits, queues and the memories that cores share."""
