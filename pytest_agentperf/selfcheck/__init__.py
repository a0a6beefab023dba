"""What this machine's client carries, held against a server that only tells the truth."""
