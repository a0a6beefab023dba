"""The load client: one HTTP/1.1 connection per agent, whose read path stamps and keeps bytes."""
