"""Real HTTP servers for the tests, each started as a process of its own."""
