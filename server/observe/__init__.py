"""What is told of each request as it is answered: its line in the log, its span."""
