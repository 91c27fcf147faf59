"""What a worker process keeps in memory so as not to make it twice."""
