"""The client against the limit, against how it is usually done, and against its peers."""
