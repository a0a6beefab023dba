"""Meters, one module per source; found by entry point ``pytest_agentperf.meters``."""
