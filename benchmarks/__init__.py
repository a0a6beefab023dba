"""Measurements that a README or a changelog may quote; never part of the tests."""
